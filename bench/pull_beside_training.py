#!/usr/bin/env python3
"""What pulling checkpoints from a running job costs its rounds: one job in a lab of two regions,
windows without and with pulls from the second region into the first, by turns. Training and pulls
go over the same line. Prints rounds a second and what was pulled. As root (the lab is made of
network namespaces).

    bench/pull_beside_training.py [--build build] [--windows 3] [--seconds 10] [KIND...]

Kinds: worker (the job's own workers give, checkpoint.serve), yield (`atoll checkpoint serve
--yield` beside them) and plain (the same without --yield).
"""

import argparse
import datetime
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LAB = """regions:
  - {name: johor, up: %s, down: %s}
  - {name: oslo, up: %s, down: %s}
links:
  default: {delay: 40ms, queue: 100ms}
"""
# Little to compute, much to send: 5 million parameters, 20 MB a round.
JOB = """\
name: beside
model: {preset: test-1m, hidden_size: 256, intermediate_size: 1024, layers: 5, heads: 4,
        kv_heads: 4}
data: {tokens: tokens.bin, sequence_length: 16}
train: {rounds: 100000, inner_steps: %d, global_batch: 2, micro_batch: 1, evaluate_every: 0}
checkpoint: {every: 0, serve: {listen: "0.0.0.0:7450", key_file: transfer.key}}
regions: [johor, oslo]
"""


class Bench:
    def __init__(self, options, base):
        self.options, self.base = options, base
        self.atoll, self.wanlab = (os.path.join(options.build, "bin", name)
                                   for name in ("atoll", "wanlab"))
        choose = random.Random(5)
        with open(self.path("text.txt"), "w") as file:
            for _ in range(20000):
                file.write(choose.choice("the sea is wide and an atoll is a ring".split()) + " ")
        subprocess.run([self.atoll, "data", "tokenize", "--input", self.path("text.txt"),
                        "--tokenizer", "bytes", "--output", self.path("tokens.bin")], check=True,
                       stdout=subprocess.DEVNULL)
        with open(self.path("lab.yaml"), "w") as file:
            file.write(LAB % ((options.rate,) * 4))
        with open(self.path("job.yaml"), "w") as file:
            file.write(JOB % options.inner_steps)
        # A checkpoint to pull; the job that is measured makes none.
        subprocess.run(self.rehearse("--set", "train.rounds=1"), check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def path(self, name):
        return os.path.join(self.base, name)

    def rehearse(self, *more):
        return [self.atoll, "rehearse", self.path("job.yaml"), "--lab", self.path("lab.yaml"),
                f"--run_dir={self.path('run')}", *more]

    def inside(self, region, *words):
        return [self.wanlab, "exec", f"--name={self.lab}", region, "--", *words]

    def rounds(self):
        try:
            with open(self.path("run/rounds.jsonl")) as file:
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def await_rounds(self, count):
        while len(self.rounds()) < count:
            if self.job.poll() is not None:
                raise SystemExit(f"the job ended; see {self.path('run.out')}")
            time.sleep(0.05)

    def pulls(self, port, over):
        to = self.path("to")
        while not over.is_set():
            shutil.rmtree(to, ignore_errors=True)
            process = subprocess.Popen(
                self.inside("johor", "nice", "-n19", self.atoll, "checkpoint", "pull",
                            f"{self.oslo}:{port}", to, "--key", self.path("transfer.key")),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while process.poll() is None and not over.wait(0.02):
                pass
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
            if process.returncode != 0 and not over.is_set():
                raise SystemExit(f"a pull failed: {out}{err[-2000:]}")

    def window(self, port):
        """Rounds a second; bytes that oslo has sent."""
        over, thread = threading.Event(), None
        if port:
            thread = threading.Thread(target=self.pulls, args=(port, over))
            thread.start()
            time.sleep(2)
        before = len(self.rounds())
        sent = self.sent()
        began = time.monotonic()
        time.sleep(self.options.seconds)
        seconds = time.monotonic() - began
        sent = self.sent() - sent
        rounds = self.rounds()[before:]
        over.set()
        if thread:
            thread.join()
        times = [datetime.datetime.fromisoformat(one["time"].replace("Z", "+00:00")).timestamp()
                 for one in rounds]
        rate = (len(times) - 1) / (times[-1] - times[0])
        return rate, 8e-6 * sent / seconds, statistics.median(r["wan_seconds"] for r in rounds)

    def sent(self):
        text = subprocess.run(self.inside("oslo", "cat", "/proc/net/dev"), check=True,
                              capture_output=True, text=True).stdout
        line = next(line for line in text.splitlines() if "wan0" in line)
        return int(line.split(":")[1].split()[8])

    def serve(self, *flags):
        server = subprocess.Popen(
            self.inside("oslo", self.atoll, "checkpoint", "serve",
                        self.path("run/oslo/checkpoints"), "--listen=0.0.0.0:7451", "--key",
                        self.path("transfer.key"), "--json", *flags),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        server.stdout.readline()
        return server

    def run(self):
        with open(self.path("run.out"), "w") as out:
            self.job = subprocess.Popen(self.rehearse(), stdout=out, stderr=out,
                                        stdin=subprocess.DEVNULL)
        try:
            self.await_rounds(4)
            with open(self.path("run.out")) as file:
                self.lab = re.search(r"^lab (\S+) of ", file.read(), re.MULTILINE)[1]
            addresses = subprocess.run([self.wanlab, "addresses", f"--name={self.lab}"],
                                       check=True, capture_output=True, text=True).stdout
            self.oslo = next(line.split()[0] for line in addresses.splitlines()
                             if line.split()[1] == "oslo")
            time.sleep(self.options.warm_up)
            print(f"{'':8s} {'rounds/s':>9s} {'beside':>9s} {'slower':>7s} {'wan s':>6s} "
                  f"{'beside':>6s} {'Mbit/s':>7s} {'beside':>7s}   of oslo's line")
            for kind in self.options.kinds:
                self.measure(kind)
        finally:
            self.job.send_signal(signal.SIGTERM)
            self.job.wait(timeout=60)

    def measure(self, kind):
        server = None
        if kind != "worker":
            server = self.serve(*(["--yield"] if kind == "yield" else []))
        quiet, beside = [], []
        for _ in range(self.options.windows):
            quiet.append(self.window(None))
            beside.append(self.window(7450 if kind == "worker" else 7451))
        if server:
            subprocess.run(["pkill", "-P", str(server.pid)], check=False)
            server.terminate()
            server.wait()
        a, b = ([statistics.median(column) for column in zip(*rows)] for rows in (quiet, beside))
        print(f"{kind:8s} {a[0]:9.3f} {b[0]:9.3f} {100 * (1 - b[0] / a[0]):6.1f}% {a[2]:6.2f} "
              f"{b[2]:6.2f} {a[1]:7.1f} {b[1]:7.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--rate", default="200mbit")
    parser.add_argument("--inner_steps", type=int, default=20)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm_up", type=float, default=5)
    parser.add_argument("kinds", nargs="*", default=["worker", "yield", "plain"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-beside-") as base:
        Bench(options, base).run()


if __name__ == "__main__":
    main()
