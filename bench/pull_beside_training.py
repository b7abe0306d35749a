#!/usr/bin/env python3
"""What pulling checkpoints from a running job costs its rounds: one job in a lab of two regions,
windows without and with pulls from the second region into the first, by turns. Training and pulls
go over the same line. Prints the seconds of a round (the middle one of all windows, and the lowest
and highest of the windows' middle ones), of its all-reduce, and what was sent. As root (the lab is
made of network namespaces).

    bench/pull_beside_training.py [--build build] [--windows 3] [--seconds 10] [KIND...]

Kinds: worker (the job's own workers give, checkpoint.serve), yield (`atoll checkpoint serve
--yield` beside them), plain (the same without --yield), and aside: plain over lines of its own,
in a second lab, so that it shares the machine with training and nothing else.
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
# Little to compute, much to send: with 5 layers 5 million parameters, 20 MB a round.
JOB = """\
name: beside
model: {preset: test-1m, hidden_size: 256, intermediate_size: 1024, layers: %d, heads: 4,
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
            file.write(JOB % (options.layers, options.inner_steps))
        # A checkpoint to pull; the job that is measured makes none.
        subprocess.run(self.rehearse("--set", "train.rounds=1"), check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def path(self, name):
        return os.path.join(self.base, name)

    def rehearse(self, *more):
        return [self.atoll, "rehearse", self.path("job.yaml"), "--lab", self.path("lab.yaml"),
                f"--run_dir={self.path('run')}", *more]

    def inside(self, region, *words, lab=None):
        return [self.wanlab, "exec", f"--name={lab or self.lab}", region, "--", *words]

    def lab_of(self, kind):
        return self.second if kind == "aside" else self.lab

    def address(self, lab, region):
        text = subprocess.run([self.wanlab, "addresses", f"--name={lab}"], check=True,
                              capture_output=True, text=True).stdout
        return next(line.split()[0] for line in text.splitlines() if line.split()[1] == region)

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

    def pulls(self, kind, over):
        to = self.path("to")
        port = 7450 if kind == "worker" else 7451
        source = f"{self.address(self.lab_of(kind), 'oslo')}:{port}"
        while not over.is_set():
            shutil.rmtree(to, ignore_errors=True)
            process = subprocess.Popen(
                self.inside("johor", "nice", "-n19", self.atoll, "checkpoint", "pull", source, to,
                            "--key", self.path("transfer.key"), lab=self.lab_of(kind)),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while process.poll() is None and not over.wait(0.02):
                pass
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
            if process.returncode != 0 and not over.is_set():
                raise SystemExit(f"a pull failed: {out}{err[-2000:]}")

    def window(self, kind, pulled):
        """Seconds of its rounds and of their all-reduces; Mbit/s that the giver's line carried."""
        over, thread = threading.Event(), None
        if pulled:
            thread = threading.Thread(target=self.pulls, args=(kind, over))
            thread.start()
            time.sleep(2)
        before = len(self.rounds())
        sent = self.sent(kind)
        began = time.monotonic()
        time.sleep(self.options.seconds)
        seconds = time.monotonic() - began
        sent = self.sent(kind) - sent
        rounds = self.rounds()[before:]
        over.set()
        if thread:
            thread.join()
        times = [datetime.datetime.fromisoformat(one["time"].replace("Z", "+00:00")).timestamp()
                 for one in rounds]
        return ([later - sooner for sooner, later in zip(times, times[1:])],
                [one["wan_seconds"] for one in rounds[1:]], 8e-6 * sent / seconds)

    def sent(self, kind):
        text = subprocess.run(
            self.inside("oslo", "cat", "/proc/net/dev", lab=self.lab_of(kind)), check=True,
            capture_output=True, text=True).stdout
        line = next(line for line in text.splitlines() if "wan0" in line)
        return int(line.split(":")[1].split()[8])

    def serve(self, kind):
        server = subprocess.Popen(
            self.inside("oslo", self.atoll, "checkpoint", "serve",
                        self.path("run/oslo/checkpoints"), "--listen=0.0.0.0:7451", "--key",
                        self.path("transfer.key"), "--json",
                        *(["--yield"] if kind == "yield" else []), lab=self.lab_of(kind)),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        server.stdout.readline()
        return server

    def run(self):
        self.second = f"beside-{os.getpid()}"
        if "aside" in self.options.kinds:
            subprocess.run([self.wanlab, "up", self.path("lab.yaml"), f"--name={self.second}"],
                           check=True, stdout=subprocess.DEVNULL)
        with open(self.path("run.out"), "w") as out:
            self.job = subprocess.Popen(self.rehearse(), stdout=out, stderr=out,
                                        stdin=subprocess.DEVNULL)
        try:
            self.await_rounds(4)
            with open(self.path("run.out")) as file:
                self.lab = re.search(r"^lab (\S+) of ", file.read(), re.MULTILINE)[1]
            time.sleep(self.options.warm_up)
            print(f"{'':8s} {'s/round':>18s} {'beside':>18s} {'slower':>7s} {'wan s':>6s} "
                  f"{'beside':>6s} {'slower':>7s} {'Mbit/s':>7s} {'beside':>7s}  of its line")
            for kind in self.options.kinds:
                self.measure(kind)
        finally:
            self.job.send_signal(signal.SIGTERM)
            self.job.wait(timeout=60)
            if "aside" in self.options.kinds:
                subprocess.run([self.wanlab, "down", f"--name={self.second}"], check=False,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def measure(self, kind):
        server = None
        if kind != "worker":
            server = self.serve(kind)
        windows = {False: [], True: []}
        for _ in range(self.options.windows):
            for pulled, those in windows.items():
                those.append(self.window(kind, pulled))
        if server:
            subprocess.run(["pkill", "-P", str(server.pid)], check=False)
            server.terminate()
            server.wait()
        rounds, reduces, spread, carried = {}, {}, {}, {}
        for pulled, those in windows.items():
            rounds[pulled] = statistics.median(one for window in those for one in window[0])
            reduces[pulled] = statistics.median(one for window in those for one in window[1])
            middles = [statistics.median(window[0]) for window in those if window[0]]
            spread[pulled] = f"{rounds[pulled]:.3f} ({min(middles):.2f}-{max(middles):.2f})"
            carried[pulled] = statistics.median(window[2] for window in those)
        slower = 100 * (rounds[True] / rounds[False] - 1)
        by_line = 100 * (reduces[True] - reduces[False]) / rounds[False]
        print(f"{kind:8s} {spread[False]:>18s} {spread[True]:>18s} {slower:6.1f}% "
              f"{reduces[False]:6.2f} {reduces[True]:6.2f} {by_line:6.1f}% "
              f"{carried[False]:7.1f} {carried[True]:7.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--rate", default="200mbit")
    parser.add_argument("--layers", type=int, default=5)
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
