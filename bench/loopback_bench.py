"""CPU seconds per GB, at both ends, of moving a checkpoint over loopback: atoll beside others.

    loopback_bench.py ATOLL MIB WORKDIR [TOOL...]      tools: atoll plain rclone aria2 rsync

The same files (bench/make_checkpoint.py) are read from the page cache and written into WORKDIR, in
one run. `atoll` encrypts and verifies every chunk; `plain` does not encrypt, and verifies; the
others do neither (rsync daemon, rclone and aria2 from `rclone serve http`). A line a tool: seconds,
GB/s, CPU seconds per GB of who gives and who takes.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

HOST = "127.0.0.1"


def free_port():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


def await_port(port):
    for _ in range(200):
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nobody listens at {port}")


def cpu(usage):
    return usage.ru_utime + usage.ru_stime


def run(words):
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    began = time.monotonic()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status != 0:
        raise SystemExit(f"{words[0]} failed: {errors[-2000:]}")
    return time.monotonic() - began, cpu(usage)


def stop(server):
    server.send_signal(signal.SIGTERM)
    _, server.returncode, usage = os.wait4(server.pid, 0)
    return cpu(usage)


def serve(words):
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def names_in(folder):
    return [os.path.relpath(os.path.join(at, name), folder)
            for at, _, names in os.walk(folder) for name in names]


def atoll(program, good, to, flags):
    port = free_port()
    server = serve([program, "checkpoint", "serve", good, f"--listen={HOST}:{port}", *flags])
    await_port(port)
    took = run([program, "checkpoint", "pull", f"{HOST}:{port}", to, "--key",
                os.path.join(good, ".transfer-key"), *flags])
    return (*took, stop(server))


def http(good, to, client):
    port = free_port()
    server = serve(["rclone", "serve", "http", good, "--addr", f"{HOST}:{port}"])
    await_port(port)
    os.makedirs(to)
    if client == "rclone":
        took = run(["rclone", "copy", f":http,url='http://{HOST}:{port}/':", to])
    else:
        path = os.path.join(to, "list")
        with open(path, "w", encoding="utf-8") as file:
            for name in names_in(good):
                if not name.startswith("."):
                    file.write(f"http://{HOST}:{port}/{name}\n  out={name}\n")
        took = run(["aria2c", "-q", "-i", path, "-d", to, "-x4", "-s4", "-j4"])
    return (*took, stop(server))


def rsync(good, to):
    port = free_port()
    config = to + ".conf"
    with open(config, "w", encoding="utf-8") as file:
        file.write(f"use chroot = no\n[good]\npath = {good}\nuid = root\ngid = root\n")
    server = serve(["rsync", "--daemon", "--no-detach", f"--port={port}", "--address", HOST,
                    f"--config={config}"])
    await_port(port)
    took = run(["rsync", "-a", f"rsync://{HOST}:{port}/good/", to + "/"])
    # The daemon's child did the work and has been waited for by the daemon.
    given = stop(server)
    return (*took, given)


def main():
    program, mib, work = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    good, to = os.path.join(work, f"good-{mib}"), os.path.join(work, "to")
    if not os.path.exists(good):
        make = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_checkpoint.py")
        subprocess.run([sys.executable, make, good, str(mib)], check=True,
                       stdout=subprocess.DEVNULL)
    size = sum(os.path.getsize(os.path.join(good, name)) for name in names_in(good)) / 1e9
    for name in names_in(good):  # into the page cache
        with open(os.path.join(good, name), "rb") as file:
            while file.read(1 << 24):
                pass
    tools = {"atoll": lambda: atoll(program, good, to, []),
             "plain": lambda: atoll(program, good, to, ["--plain"]),
             "rclone": lambda: http(good, to, "rclone"), "aria2": lambda: http(good, to, "aria2"),
             "rsync": lambda: rsync(good, to)}
    for name in sys.argv[4:] or tools:
        shutil.rmtree(to, ignore_errors=True)
        seconds, takes, gives = tools[name]()
        print(json.dumps({"tool": name, "seconds": round(seconds, 2),
                          "gb_per_s": round(size / seconds, 2),
                          "cpu_per_gb": round((gives + takes) / size, 2),
                          "gives": round(gives / size, 2), "takes": round(takes / size, 2)}),
              flush=True)
    shutil.rmtree(to, ignore_errors=True)


if __name__ == "__main__":
    main()
