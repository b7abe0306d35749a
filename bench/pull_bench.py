"""What `atoll checkpoint pull` reaches in a lab: pull_bench.py BIN SCENE... (as root).

BIN has atoll and wanlab. Each scene makes its lab, serves copies of one checkpoint from all
regions but the first, and pulls it there; then it prints a line. Scenes:
  two      1 GiB from two regions of 300 Mbit/s at 80 ms: rate beside what the lines carry
  killed   1 GiB from three sources, one killed half-way: bytes that came again
  cut      512 MiB from two, all connections broken every second (ss -K): bytes that came again,
           beside a pull whose connections live
  cap      256 MiB under --rate_cap=100mbit: rate
Bytes again: what the first region's device has received beyond the checkpoint's bytes (what is on
its way when a connection breaks is lost, and counts here); for `cut` also what the program has read
from its sockets, by strace, beyond what it reads undisturbed; and what pull itself counts.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

PAYLOAD = 1448 / 1500  # of a packet
LAB = """regions:
  - {name: johor, up: 300mbit, down: 1500mbit}
%s
links:
  default: {delay: 40ms, queue: 100ms}
"""
NAMES = ["oslo", "batam", "turku"]


class Scene:
    def __init__(self, binaries, root, mib, sources):
        self.atoll, self.wanlab = (os.path.join(binaries, name) for name in ("atoll", "wanlab"))
        self.root, self.names = root, NAMES[:sources]
        self.good = os.path.join(root, f"good-{mib}")
        if not os.path.exists(self.good):
            make = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_checkpoint.py")
            subprocess.run([sys.executable, make, self.good, str(mib)], check=True,
                           stdout=subprocess.DEVNULL)
        self.lab = f"pull-{os.getpid()}"
        lines = "\n".join(f"  - {{name: {name}, up: 300mbit, down: 300mbit}}"
                          for name in self.names)
        path = os.path.join(root, "lab.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(LAB % lines)
        subprocess.run([self.wanlab, "up", path, f"--name={self.lab}"], check=True,
                       stdout=subprocess.DEVNULL)
        self.servers = [self.start(name) for name in self.names]

    def inside(self, region, *words):
        return [self.wanlab, "exec", f"--name={self.lab}", region, "--", *words]

    def address(self, region):
        text = subprocess.run([self.wanlab, "addresses", f"--name={self.lab}"], check=True,
                              capture_output=True, text=True).stdout
        return next(line.split()[0] for line in text.splitlines() if line.split()[1] == region)

    def start(self, region):
        server = subprocess.Popen(
            self.inside(region, self.atoll, "checkpoint", "serve", self.good,
                        "--listen=0.0.0.0:7450", "--json"),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        server.stdout.readline()
        return server

    def received(self):
        text = subprocess.run(self.inside("johor", "cat", "/proc/net/dev"), check=True,
                              capture_output=True, text=True).stdout
        line = next(line for line in text.splitlines() if "wan0" in line)
        return int(line.split(":")[1].split()[0])

    def pull(self, *flags, beside=None, trace=False):
        to = os.path.join(self.root, "to")
        shutil.rmtree(to, ignore_errors=True)
        addresses = [f"{self.address(name)}:7450" for name in self.names]
        log = os.path.join(self.root, "trace")
        counting = ["strace", "-f", "-qq", "-etrace=recvfrom", "-o", log] if trace else []
        before, began = self.received(), time.monotonic()
        process = subprocess.Popen(
            self.inside("johor", *counting, self.atoll, "checkpoint", "pull", *addresses, to,
                        "--json", "--key", os.path.join(self.good, ".transfer-key"), *flags),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if beside:
            threading.Thread(target=beside, args=(process,), daemon=True).start()
        out, err = process.communicate()
        seconds = time.monotonic() - began
        if process.returncode != 0:
            raise SystemExit(f"pull failed: {out}{err[-2000:]}")
        shutil.rmtree(to)
        answer = json.loads(out)
        if trace:
            with open(log, encoding="utf-8", errors="replace") as file:
                answer["taken"] = sum(int(found[1]) for found in
                                      re.finditer(r" = (\d+)$", file.read(), re.MULTILINE))
        answer["wall"], answer["device"] = seconds, self.received() - before
        return answer

    def down(self):
        for server in self.servers:
            server.terminate()
        subprocess.run([self.wanlab, "down", f"--name={self.lab}"], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for server in self.servers:
            server.wait()


def show(name, answer, text):
    sources = " ".join(f"{one['bytes'] / 2**20:.0f}" for one in answer["sources"])
    over = answer["device"] / answer["bytes"] - 1
    print(f"{name:7} {answer['seconds']:.2f} s ({answer['wall']:.2f} s with start and commit)  "
          f"{8e-6 * answer['bytes'] / answer['seconds']:.1f} Mbit/s  {text}; "
          f"{100 * over:.2f}% more bytes on the device, {answer['again_bytes']} counted again; "
          f"MiB by source: {sources}", flush=True)


def two(binaries, root):
    scene = Scene(binaries, root, 1024, 2)
    try:
        answer = scene.pull()
        share = 8 * answer["bytes"] / answer["seconds"] / (600e6 * PAYLOAD)
        show("two", answer, f"{share:.3f} of what the lines carry")
    finally:
        scene.down()


def killed(binaries, root):
    scene = Scene(binaries, root, 1024, 3)

    def kill(_):
        time.sleep(6)  # of some twelve
        subprocess.run(["pkill", "-9", "-P", str(scene.servers[2].pid)], check=False)
        scene.servers[2].kill()
    try:
        show("killed", scene.pull(beside=kill), "one of three killed after 6 s")
    finally:
        scene.down()


def cut(binaries, root):
    scene = Scene(binaries, root, 512, 2)
    cuts = [0]

    def breaking(process):
        time.sleep(0.5)
        while process.poll() is None:
            subprocess.run(scene.inside("johor", "ss", "-K", "dport", "=", ":7450"), check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            cuts[0] += 1
            time.sleep(1)
    try:
        whole = scene.pull(trace=True)
        around = whole["taken"] / whole["bytes"] - 1  # headers, tags, acknowledgements
        answer = scene.pull(beside=breaking, trace=True)
        more = answer["taken"] / answer["bytes"] - 1
        show("cut", answer, f"disconnected {cuts[0]} times, {100 * (more - around):.2f}% of the "
             f"bytes read from sockets again ({100 * around:.2f}% are headers and the like)")
    finally:
        scene.down()


def cap(binaries, root):
    scene = Scene(binaries, root, 256, 2)
    try:
        show("cap", scene.pull("--rate_cap=100mbit"), "cap 100 Mbit/s")
    finally:
        scene.down()


def main():
    scenes = {"two": two, "killed": killed, "cut": cut, "cap": cap}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as root:
        for name in sys.argv[2:]:
            scenes[name](sys.argv[1], root)


if __name__ == "__main__":
    main()
