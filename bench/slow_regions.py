#!/usr/bin/env python3
"""What a slow region costs: one job in a lab of four regions, of which one is stopped for two
thirds of the time, with each sync.slow.policy. Prints rounds and tokens a second. As root (the lab
is made of network namespaces).

    bench/slow_regions.py [--build build] [--lab configs/lab/four-equal-150ms.yaml] [POLICY...]
"""

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
JOB = """\
name: slow
model: {preset: test-1m, hidden_size: 64, intermediate_size: 128, layers: 2, heads: 4, kv_heads: 2}
data: {tokens: tokens.bin, sequence_length: 64}
train: {rounds: 100000, inner_steps: %d, global_batch: 8, micro_batch: 2, evaluate_every: 0}
checkpoint: {every: 0}
regions: [%s]
"""


def worker_of(run_dir, region):
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/cmdline") as file:
                line = file.read()
            program = os.path.basename(os.readlink(f"/proc/{entry}/exe"))
        except OSError:
            continue
        if program == "atoll-worker" and run_dir in line and f"--region={region}\0" in line:
            return int(entry)
    return None


def rounds_of(run_dir):
    try:
        with open(os.path.join(run_dir, "rounds.jsonl")) as file:
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def slow_down(pid, over):
    while not over.is_set():
        os.kill(pid, signal.SIGSTOP)
        over.wait(0.1)
        os.kill(pid, signal.SIGCONT)
        over.wait(0.05)


def run(options, job, run_dir, policy):
    """Over the last `seconds`: rounds and tokens a second, the all-reduce's median, views."""
    atoll = os.path.join(options.build, "bin", "atoll")
    command = [atoll, "rehearse", job, "--lab", options.lab, f"--run_dir={run_dir}"]
    slow = policy != "even"
    if slow:
        command += ["--set", f"sync.slow.policy={policy}"]
    with open(run_dir + ".out", "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    over = threading.Event()
    thread = None
    try:
        while len(rounds_of(run_dir)) < 2:
            if process.poll() is not None:
                raise SystemExit(f"the job ended; see {run_dir}.out")
            time.sleep(0.05)
        if slow:
            pid = worker_of(run_dir, options.region)
            thread = threading.Thread(target=slow_down, args=(pid, over))
            thread.start()
        time.sleep(options.warm_up)
        before = rounds_of(run_dir)
        time.sleep(options.seconds)
        after = rounds_of(run_dir)
    finally:
        over.set()
        if thread:
            thread.join()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    tokens = after[-1]["tokens_total"] - before[-1]["tokens_total"]
    of_window = after[len(before):]
    views = len({line["view"] for line in of_window})
    reduces = sorted(line["wan_seconds"] for line in of_window)[len(of_window) // 2]
    return len(of_window) / options.seconds, tokens / options.seconds, reduces, views


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--lab", default=os.path.join(ROOT, "configs/lab/four-equal-150ms.yaml"))
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--warm_up", type=float, default=8)
    parser.add_argument("--inner_steps", type=int, default=24)
    parser.add_argument("policies", nargs="*", default=["even", "wait", "share", "quorum"])
    options = parser.parse_args()
    base = tempfile.mkdtemp(prefix="atoll-slow-")
    choose = random.Random(5)
    words = "the sea is wide and an atoll is a ring of islands".split()
    with open(os.path.join(base, "text.txt"), "w") as file:
        for _ in range(20000):
            file.write(choose.choice(words) + " ")
    subprocess.run([os.path.join(options.build, "bin", "atoll"), "data", "tokenize", "--input",
                    os.path.join(base, "text.txt"), "--tokenizer", "bytes", "--output",
                    os.path.join(base, "tokens.bin")], check=True, stdout=subprocess.DEVNULL)
    with open(options.lab) as file:
        names = [line.split("name:")[1].split(",")[0].strip(" }\n") for line in file
                 if line.strip().startswith("- {name:")]
    options.region = names[-1]
    job = os.path.join(base, "job.yaml")
    with open(job, "w") as file:
        file.write(JOB % (options.inner_steps, ", ".join(names)))
    print(f"{'policy':8s} {'rounds/s':>9s} {'tokens/s':>9s} {'reduce s':>9s} {'views':>6s}")
    for policy in options.policies:
        rounds, tokens, reduce, views = run(options, job, os.path.join(base, policy), policy)
        print(f"{policy:8s} {rounds:9.2f} {tokens:9.0f} {reduce:9.2f} {views:6d}", flush=True)


if __name__ == "__main__":
    main()
