#!/usr/bin/env python3
"""What regions that train lose while another one joins: it connects, fetches the outer state beside
their rounds, and enters. Two regions of one worker train; a third one comes when its lease begins,
and is killed (SIGKILL) and started again for every further join. Each worker is held to a share of
a core (a cgroup, version 1), so that they do not take it from one another. As root.

    bench/join_idle.py [--build build] [--tokens build/data/kjv.bin] [--joins 3] [--core 0.5]

Of each round: the time from the commit of the round before to its own, and for each of the two
regions what of that was not in inner steps (idle: the all-reduce, the change of a view, waiting).
Kinds of rounds: `quiet` (two regions, nobody joins), `connect` (from the third region's Ready to
the edge at which it is an observer), `fetch` (until it holds the state), `enter` (until it trains),
`first` (in which it trains), `three` (further ones). `in all` is what a join's rounds idle more
than quiet ones would (the first one: than those of three), as a share of a quiet round.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import sqlite3
import statistics
import struct
import subprocess
import tempfile
import time

import growth

NAMES = ["region-1", "region-2"]
JOINER = "region-3"
JOB = """\
name: join-idle
model: {preset: test-1m, hidden_size: 512, intermediate_size: 1376, layers: 11, heads: 8,
        kv_heads: 8}
data: {tokens: %s, sequence_length: 32}
train: {rounds: 100000, inner_steps: %d, global_batch: 6, micro_batch: 2, evaluate_every: 0,
        evaluate_samples: 2}
checkpoint: {every: 0}
regions: [region-1, region-2, {name: region-3, lease: {start: "%s"}}]
"""
COMPUTE = 2  # PhaseSeconds.compute


def seconds_of(time_text):
    return datetime.datetime.fromisoformat(time_text.rstrip("Z") + "+00:00").timestamp()


def double_of(message, number):
    """The field `number`, a double, of a protobuf message; 0 if it is not there."""
    at, value = 0, 0.0

    def varint():
        nonlocal at
        result, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            result |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return result

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            varint()
        elif key & 7 == 1:
            if key >> 3 == number:
                value = struct.unpack_from("<d", message, at)[0]
            at += 8
        elif key & 7 == 2:
            length = varint()
            at += length
        else:
            at += 4
    return value


class Joins(growth.Run):
    def __init__(self, options, base):
        super().__init__(options, base)
        self.computed = {}  # by round and region

    def events(self):
        return growth.lines_of(os.path.join(self.run_dir, "events.jsonl"))

    def rounds(self):
        return growth.lines_of(os.path.join(self.run_dir, "rounds.jsonl"))

    def joins(self):
        """(when ready, first round as observer, when caught up, first round that it trains in) of
        each join that is over."""
        found, stages = [], []
        for event in self.events():
            now, text = seconds_of(event["time"]), event["text"]
            if event["kind"] == "region_ready" and event["region"] == JOINER:
                stages = [now]
            elif event["kind"] == "caught_up" and len(stages) == 2:
                stages.append(now)
            elif event["kind"] == "view" and "holds from round" in text and len(stages) in (1, 3):
                stages.append(int(text.split("holds from round ")[1].split()[0]))
                if len(stages) == 4:
                    found.append(stages)
                    stages = []
        return found

    def wait(self, process, condition, what):
        deadline = time.monotonic() + self.options.patience
        while not condition():
            self.training()
            self.note()
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"no {what}; see {self.run_dir}.out")
            time.sleep(0.05)

    def note(self):
        """What each region has computed up to the newest round: its report says so."""
        rounds = self.rounds()
        if not rounds or rounds[-1]["round"] in self.computed:
            return
        with contextlib.closing(sqlite3.connect(f"file:{self.run_dir}/atoll.db?mode=ro",
                                                uri=True)) as database:
            rows = database.execute("SELECT name, phases FROM regions WHERE phases IS NOT NULL")
            self.computed[rounds[-1]["round"]] = {name: double_of(phases, COMPUTE)
                                                  for name, phases in rows}

    @staticmethod
    def kind_of(number, begun, ended, joins):
        for join, (ready, observes, caught_up, trains) in enumerate(joins):
            if number == trains:
                return "first", join
            if number < observes and ended > ready and begun < caught_up:
                return "connect", join
            if observes <= number < trains:
                return ("fetch" if begun < caught_up else "enter"), join
        return None, None

    def report(self, killed):
        rounds, joins = self.rounds(), self.joins()
        kinds = {name: [] for name in ("quiet", "connect", "fetch", "enter", "first", "three")}
        of_join = {number: [] for number in range(len(joins))}
        for before, this in zip(rounds[1:], rounds[2:]):  # the first two take longer
            number = this["round"]
            begun, ended = seconds_of(before["time"]), seconds_of(this["time"])
            if any(begun < end and ended > since for since, end in killed):
                continue  # a region was lost; that is not the price of a join
            if not {number - 1, number} <= self.computed.keys():
                continue  # two rounds within one look
            train = [self.computed[number][name] - self.computed[number - 1][name]
                     for name in NAMES]
            sample = (ended - begun, [ended - begun - one for one in train], train)
            kind, join = self.kind_of(number, begun, ended, joins)
            if kind is None:
                trained = [trains for *_, trains in joins if trains < number]
                back = [since for since, _ in killed if since < begun]
                kind = "three" if len(trained) > len(back) else "quiet"
            kinds[kind].append(sample)
            if join is not None:
                of_join[join].append((kind, sample[1]))
        print(f"{'rounds':>8s} {'number':>6s} {'seconds':>8s} {'train':>7s} "
              f"{'idle, median':>13s} {'most':>6s}")
        for kind, samples in kinds.items():
            if not samples:
                continue
            idle = [one for _, both, _ in samples for one in both]
            print(f"{kind:>8s} {len(samples):6d} "
                  f"{statistics.median(seconds for seconds, *_ in samples):8.2f} "
                  f"{statistics.median(one for *_, both in samples for one in both):7.2f} "
                  f"{statistics.median(idle):13.2f} {max(idle):6.2f}")
        def idle_of(kind):
            both = [one for _, idle, _ in kinds[kind] for one in idle]
            return statistics.median(both) if both else 0

        if not kinds["quiet"] or not kinds["three"]:
            return
        whole = statistics.median(seconds for seconds, *_ in kinds["quiet"])
        for number, samples in of_join.items():
            more = [sum(idle[i] - idle_of("three" if kind == "first" else "quiet")
                        for kind, idle in samples) for i in range(len(NAMES))]
            print(f"join {number + 1}: {len(samples)} rounds; in all "
                  + ", ".join(f"{name} {seconds:+.2f} s ({seconds / whole:+.0%})"
                              for name, seconds in zip(NAMES, more)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", default=os.path.join(growth.ROOT, "build"))
    parser.add_argument("--tokens", default=os.path.join(growth.ROOT, "build/data/kjv.bin"))
    parser.add_argument("--core", type=float, default=0.5)
    parser.add_argument("--inner_steps", type=int, default=4)
    parser.add_argument("--joins", type=int, default=3)
    parser.add_argument("--start", type=float, default=30, help="seconds until the third one comes")
    parser.add_argument("--patience", type=float, default=300, help="seconds that a join may take")
    parser.add_argument("--set", action="append", default=[], help="as of atoll train")
    options = parser.parse_args()
    base = tempfile.mkdtemp(prefix="atoll-join-")
    start = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=options.start)
    with open(os.path.join(base, "job.yaml"), "w") as file:
        file.write(JOB % (os.path.abspath(options.tokens), options.inner_steps,
                          start.strftime("%Y-%m-%dT%H:%M:%SZ")))
    run = Joins(options, base)
    killed = []
    with open(run.run_dir + ".out", "w") as out:
        process = subprocess.Popen(
            [os.path.join(options.build, "bin", "atoll"), "train", f"{base}/job.yaml",
             f"--run_dir={run.run_dir}"] + [f"--set={one}" for one in options.set],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        for join in range(options.joins):
            run.wait(process, lambda: len(run.joins()) > join, f"join {join + 1}")
            count = len(run.rounds()) + 4
            run.wait(process, lambda: len(run.rounds()) >= count, "rounds after it")
            if join + 1 == options.joins:
                break
            begun = time.time()
            os.kill(int(growth.worker_of(run.run_dir, JOINER)), signal.SIGKILL)
            count = len(run.rounds()) + 1
            run.wait(process, lambda: len(run.rounds()) > count, "round without it")
            killed.append((begun, time.time()))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        run.remove_groups()
    run.report(killed)
    print(f"run directory: {run.run_dir}")


if __name__ == "__main__":
    main()
