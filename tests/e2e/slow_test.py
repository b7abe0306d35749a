"""A region that stays slow: its share of the inner steps goes down, or rounds go on without it."""

import contextlib
import json
import os
import signal
import sqlite3
import threading
import unittest

from atoll_run import LIMIT, JobTest, wait_until

LONG = ("--set", "train.rounds=100000", "--set", "checkpoint.every=0",
        "--set", "train.evaluate_every=0", "--set", "train.inner_steps=12")


class Slowed:
    """Stops a process for two thirds of the time."""

    def __init__(self, pid):
        self.pid = pid
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            self.over.wait(0.1)
            os.kill(self.pid, signal.SIGCONT)
            self.over.wait(0.05)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        os.kill(self.pid, signal.SIGCONT)


def fields(data):
    """(number, value) of each field of a protobuf message of varints and messages."""
    at = 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    found = []
    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        else:
            size = varint()
            found.append((tag >> 3, data[at:at + size]))
            at += size
    return found


class SlowTest(JobTest):

    def assert_every_sample_once(self, run_dir):
        """Committed, open or in the pool: each sample is there once, and none is missing."""
        with contextlib.closing(sqlite3.connect(os.path.join(run_dir, "atoll.db"))) as database:
            rows = database.execute("SELECT first, end, rest FROM samples WHERE superseded=0 "
                                    "AND state!=3").fetchall()
            (ledger,), = database.execute("SELECT state FROM ledger").fetchall()
        ranges = []
        for first, end, rest in rows:
            ranges.append((first, end))
            for part in (rest or "").split():
                ranges.append(tuple(int(number) for number in part.split("-")))
        following = 0
        for number, value in fields(ledger):
            if number == 2:
                following = value
            elif number == 3:
                ends = dict(fields(value))
                ranges.append((ends.get(1, 0), ends[2]))
        ranges = sorted(pair for pair in ranges if pair[1] > pair[0])
        self.assertEqual(ranges[0][0], 0)
        for before, after in zip(ranges, ranges[1:]):
            self.assertEqual(before[1], after[0])
        self.assertGreaterEqual(ranges[-1][1], following)

    def run_slowed(self, run_dir, policy, reached, more=()):
        """A job whose region oslo is slow until `reached`."""
        process = self.start(run_dir, *LONG, "--set", f"sync.slow.policy={policy}", *more)
        self.wait_for_rounds(run_dir, 2)
        (oslo,) = self.workers_of(run_dir, "oslo")
        with Slowed(oslo):
            wait_until(reached, f"{policy}: {reached.__name__}")
        self.wait_for_rounds(run_dir, len(self.rounds(run_dir)) + 3)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=LIMIT), 75,
                         self.output(run_dir) + self.logs(run_dir))
        self.assert_nothing_left(run_dir)
        rounds = [line["round"] for line in self.rounds(run_dir)]
        self.assertEqual(rounds, list(range(1, len(rounds) + 1)))
        self.assertEqual(len({region["digest"] for region in self.summary(run_dir)["regions"]}), 1)
        self.assert_every_sample_once(run_dir)

    def events_of(self, run_dir, kind):
        """Also while the job runs: a line that is being written does not count."""
        with open(os.path.join(run_dir, "events.jsonl")) as file:
            events = [json.loads(line)
                      for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
        return [event for event in events if event["kind"] == kind]

    def test_a_slow_region_takes_fewer_inner_steps(self):
        run_dir = self.new_dir("run")

        def oslo_takes_fewer_steps():
            regions = self.summary(run_dir)["regions"]
            taken = {region["name"]: region["inner_steps"] for region in regions}
            return taken["oslo"] < 12 and len({line["view"] for line in self.rounds(run_dir)}) > 1

        self.run_slowed(run_dir, "share", oslo_takes_fewer_steps)
        lowered = self.events_of(run_dir, "steps_lowered")
        self.assertIn("oslo", {event["region"] for event in lowered})

    def test_rounds_go_on_without_a_slow_region(self):
        run_dir = self.new_dir("run")

        def oslo_has_been_late():
            late = [event for event in self.events_of(run_dir, "late")
                    if event["region"] == "oslo"]
            return len(late) >= 3

        self.run_slowed(run_dir, "quorum", oslo_has_been_late)


if __name__ == "__main__":
    unittest.main(verbosity=2)
