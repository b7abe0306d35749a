#!/usr/bin/env python3
"""What another region adds: one job goes from 2 to 4 regions and then to 3, on one host. Each
region's worker gets a share of one core (a cgroup, version 1), so that they do not take it from one
another. Prints tokens a second and losses of each phase. As root.

    bench/growth.py [--build build] [--tokens build/data/kjv.bin] [--core 0.1] [--seconds 40]
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CPU = "/sys/fs/cgroup/cpu"
NAMES = ["region-1", "region-2", "region-3", "region-4"]
JOB = """\
name: growth
model: {preset: test-1m, hidden_size: 64, intermediate_size: 128, layers: 2, heads: 4, kv_heads: 2}
data: {tokens: %s, sequence_length: 64}
train: {rounds: 100000, inner_steps: 16, global_batch: 12, micro_batch: 3, learning_rate: 3e-3,
        evaluate_every: 5, evaluate_samples: 64}
sync: {outer_momentum: 0.3}
checkpoint: {every: 0}
regions: [region-1, region-2, {name: region-3, lease: {start: "%s"}},
          {name: region-4, lease: {start: "%s"}}]
"""


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return {}


def lines_of(path):
    try:
        with open(path) as file:
            return [json.loads(line) for line in file.read().splitlines(True)
                    if line.endswith("\n")]
    except FileNotFoundError:
        return []


def worker_of(run_dir, region):
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/cmdline") as file:
                line = file.read()
            program = os.path.basename(os.readlink(f"/proc/{entry}/exe"))
        except OSError:
            continue
        if program == "atoll-worker" and run_dir in line and f"--region={region}\0" in line:
            return entry
    return None


class Run:
    def __init__(self, options, base):
        self.options, self.run_dir, self.limited = options, os.path.join(base, "run"), {}

    def training(self):
        """Regions that train now; the workers of new ones get their share of a core."""
        regions = read_json(os.path.join(self.run_dir, "summary.json")).get("regions", [])
        names = [region["name"] for region in regions if region["state"] == "training"]
        for name in names:
            group = f"{CPU}/atoll-growth-{os.getpid()}-{name}"
            pid = worker_of(self.run_dir, name)
            if pid is None or self.limited.get(group) == pid:
                continue
            os.makedirs(group, exist_ok=True)
            with open(f"{group}/cpu.cfs_quota_us", "w") as file:
                file.write(str(int(1e5 * self.options.core)))
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write(pid)
            self.limited[group] = pid
        return names

    def wait_for(self, process, count, what):
        while (now := len(self.training())) != count:
            if process.poll() is not None:
                raise SystemExit(f"the job ended before {what}; see {self.run_dir}.out")
            if count == 2 and now > count:
                raise SystemExit("the others came before two regions trained: a longer --start")
            time.sleep(0.2)

    def phase(self, count):
        """Rounds of the next `seconds`, the first two left out."""
        rounds = os.path.join(self.run_dir, "rounds.jsonl")
        settled = len(lines_of(rounds)) + 2
        while len(lines_of(rounds)) < settled:
            self.training()
            time.sleep(0.1)
        before, begun = lines_of(rounds)[-1], time.monotonic()
        while time.monotonic() < begun + self.options.seconds:
            self.training()
            time.sleep(0.1)
        while lines_of(rounds)[-1]["round"] == before["round"]:
            time.sleep(0.1)
        after = lines_of(rounds)[-1]
        seconds = (datetime.datetime.fromisoformat(after["time"].rstrip("Z")) -
                   datetime.datetime.fromisoformat(before["time"].rstrip("Z"))).total_seconds()
        tokens = after["tokens_total"] - before["tokens_total"]
        print(f"{count:7d} {after['round'] - before['round']:7d} {tokens / seconds:9.0f} "
              f"{before['train_loss']:8.3f} {after['train_loss']:8.3f}", flush=True)

    def remove_groups(self):
        for group in self.limited:
            try:
                os.rmdir(group)
            except OSError:
                pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--tokens", default=os.path.join(ROOT, "build/data/kjv.bin"))
    parser.add_argument("--core", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=40, help="of a phase")
    parser.add_argument("--start", type=float, default=30,
                        help="seconds from the start until two regions train, with reserve")
    options = parser.parse_args()
    atoll = os.path.join(options.build, "bin", "atoll")
    base = tempfile.mkdtemp(prefix="atoll-growth-")
    start = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(
        seconds=options.seconds + options.start)
    start = start.strftime("%Y-%m-%dT%H:%M:%SZ")
    with open(os.path.join(base, "job.yaml"), "w") as file:
        file.write(JOB % (os.path.abspath(options.tokens), start, start))
    run = Run(options, base)
    with open(run.run_dir + ".out", "w") as out:
        process = subprocess.Popen(
            [atoll, "train", f"{base}/job.yaml", f"--run_dir={run.run_dir}"],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        print(f"{'regions':>7s} {'rounds':>7s} {'tokens/s':>9s} {'loss':>8s} {'to':>8s}")
        run.wait_for(process, 2, "two regions trained")
        run.phase(2)
        run.wait_for(process, 4, "four regions trained")
        run.phase(4)
        subprocess.run([atoll, "drain", NAMES[3], run.run_dir], check=True,
                       stdout=subprocess.DEVNULL)
        run.wait_for(process, 3, "three regions trained")
        run.phase(3)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        run.remove_groups()


if __name__ == "__main__":
    main()
