"""Regions that fail, come back, leave and come again while the job goes on; an orchestrator that is
killed."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
import unittest

from atoll_run import ATOLL, LIMIT, WORKER, JobTest, wait_until

LONG = ("--set", "train.rounds=100000", "--set", "checkpoint.every=0",
        "--set", "train.evaluate_every=0")


class ChangingTest(JobTest):

    def region(self, run_dir, name):
        return next(region for region in self.summary(run_dir)["regions"]
                    if region["name"] == name)

    def wait_for_more_rounds(self, run_dir, more=3):
        self.wait_for_rounds(run_dir, len(self.rounds(run_dir)) + more)

    def wait_for_state(self, run_dir, name, state):
        wait_until(lambda: self.region(run_dir, name)["state"] == state, f"{name} is {state}", 60)

    def wait_for_hellos(self, run_dir, name, count):
        def hellos():
            try:
                return sum(event["kind"] == "region_hello" and event.get("region") == name
                           for event in self.events(run_dir))
            except (OSError, ValueError):  # not there yet, or a line that is being written
                return 0
        wait_until(lambda: hellos() >= count, f"{name} says hello")

    def stop(self, process, run_dir, code=75):
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=LIMIT), code,
                         self.output(run_dir) + self.logs(run_dir))
        self.assert_nothing_left(run_dir)

    def assert_rounds_without_gap(self, run_dir):
        rounds = [line["round"] for line in self.rounds(run_dir)]
        self.assertEqual(rounds, list(range(1, len(rounds) + 1)))

    def test_a_killed_region_is_started_again_and_trains_with_the_others(self):
        run_dir = self.new_dir("run")
        process = self.start(run_dir, *LONG)
        self.wait_for_rounds(run_dir, 2)
        (oslo,) = self.workers_of(run_dir, "oslo")
        os.kill(oslo, signal.SIGKILL)
        wait_until(lambda: self.region(run_dir, "oslo")["state"] != "training", "oslo is missed")
        self.wait_for_more_rounds(run_dir)
        self.wait_for_state(run_dir, "oslo", "training")
        self.wait_for_more_rounds(run_dir)
        self.stop(process, run_dir)
        self.assertIn("starting it again", self.output(run_dir))
        self.assert_rounds_without_gap(run_dir)

    def test_regions_train_on_without_the_orchestrator_and_it_comes_back(self):
        run_dir = self.new_dir("run")
        process = self.start(run_dir, *LONG)
        self.wait_for_rounds(run_dir, 2)
        with open(os.path.join(run_dir, "orchestrator.json")) as file:
            first = json.load(file)["pid"]
        before = len(self.rounds(run_dir))
        os.kill(first, signal.SIGKILL)

        def second():
            try:
                with open(os.path.join(run_dir, "orchestrator.json")) as file:
                    return json.load(file)["pid"] != first
            except (OSError, ValueError):
                return False
        wait_until(second, "another orchestrator")
        self.wait_for_rounds(run_dir, before + 5)
        self.stop(process, run_dir)
        self.assert_rounds_without_gap(run_dir)
        self.assertEqual({line["view"] for line in self.rounds(run_dir)}, {1})

    def test_regions_leave_and_come_while_the_loss_falls(self):
        """4 -> 2 -> 4 -> 3 regions in one run."""
        run_dir = self.new_dir("run")
        process = self.start(run_dir, *LONG, "--set", "train.global_batch=8", regions=4)
        self.wait_for_rounds(run_dir, 2)
        with open(os.path.join(run_dir, "orchestrator.json")) as file:
            address = json.load(file)["address"]
        names = [region["name"] for region in self.summary(run_dir)["regions"]]
        for name in names[2:]:
            self.drain(run_dir, name)
            self.wait_for_state(run_dir, name, "left")
        self.wait_for_more_rounds(run_dir)
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
                           OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        again = [subprocess.Popen(["mpirun", "-n", "1", "--oversubscribe", WORKER,
                                   f"--orchestrator={address}", f"--region={name}",
                                   f"--lease={run_dir}/keys/{name}.lease",
                                   f"--run_dir={run_dir}"],
                                  env=environment, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                 for name in names[2:]]
        for name in names[2:]:
            self.wait_for_state(run_dir, name, "training")
        self.wait_for_more_rounds(run_dir)
        self.drain(run_dir, names[2])
        self.wait_for_state(run_dir, names[2], "left")
        self.assertEqual(again[0].wait(timeout=LIMIT), 75)
        self.wait_for_more_rounds(run_dir)
        self.stop(process, run_dir)
        self.assertEqual(again[1].wait(timeout=LIMIT), 75)
        self.assert_rounds_without_gap(run_dir)
        losses = [line["train_loss"] for line in self.rounds(run_dir)]
        self.assertLess(losses[-1], losses[0])

    def drain(self, run_dir, name):
        done = subprocess.run([ATOLL, "drain", name, run_dir], capture_output=True, text=True,
                              timeout=LIMIT)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_region_that_gets_sigterm_leaves_and_the_others_go_on(self):
        run_dir = self.new_dir("run")
        process = self.start(run_dir, *LONG)
        self.wait_for_rounds(run_dir, 2)
        (oslo,) = self.workers_of(run_dir, "oslo")
        os.kill(oslo, signal.SIGUSR1)
        self.wait_for_state(run_dir, "oslo", "left")
        self.wait_for_more_rounds(run_dir)
        self.stop(process, run_dir)
        self.assert_rounds_without_gap(run_dir)

    def test_whenever_a_region_gets_sigterm_no_sample_is_lost_or_repeated(self):
        """At some moment, mostly in an inner step, and held in the all-reduce; tried four times."""
        for attempt, doing in enumerate(("anything", "all-reduce") * 2):
            run_dir = self.new_dir(f"run-{attempt}")
            process = self.start(run_dir, "--set", "train.rounds=120", "--set",
                                 "train.evaluate_every=0")
            self.wait_for_rounds(run_dir, 2 + attempt)
            (oslo,) = self.workers_of(run_dir, "oslo")
            (johor,) = self.workers_of(run_dir, "johor")
            # Who waits for a stopped one is in the all-reduce until that is named.
            if doing == "all-reduce":
                os.kill(johor, signal.SIGSTOP)
            try:
                if doing == "all-reduce":
                    wait_until(lambda: doing in self.region(run_dir, "oslo")["doing"], doing)
                os.kill(oslo, signal.SIGTERM)
            finally:
                os.kill(johor, signal.SIGCONT)
            self.assertEqual(process.wait(timeout=LIMIT), 0,
                             self.output(run_dir) + self.logs(run_dir))
            # A region that ends otherwise than with 0 or 75 is said to.
            self.assertNotIn("region oslo ended", self.output(run_dir))
            self.assertIn("region oslo left: exit code 75", self.output(run_dir))
            self.assertIn("left", {event["kind"].split("_")[-1]
                                   for event in self.events(run_dir)
                                   if event.get("region") == "oslo"})
            self.assertEqual(len(self.rounds(run_dir)), 120)
            self.assert_rounds_without_gap(run_dir)
            self.assert_exact_ledger(run_dir)
            self.assert_nothing_left(run_dir)

    def test_whoever_gets_sigterm_before_it_trains_leaves_with_75_and_the_others_train(self):
        """While it loads the job; and started again, while it loads, waits or fetches the state."""
        for moment in ("at the start", "when it is back"):
            run_dir = self.new_dir(moment.replace(" ", "-") + str(len(self.dirs)))
            back = moment == "when it is back"
            rounds = 100000 if back else 30
            process = self.start(run_dir, "--set", f"train.rounds={rounds}", "--set",
                                 "train.evaluate_every=0")
            if back:
                self.wait_for_rounds(run_dir, 2)
                (first,) = self.workers_of(run_dir, "oslo")
                os.kill(first, signal.SIGKILL)
            self.wait_for_hellos(run_dir, "oslo", 2 if back else 1)
            (oslo,) = wait_until(lambda: self.workers_of(run_dir, "oslo"), "oslo's worker")
            os.kill(oslo, signal.SIGTERM)
            left = "region oslo left: exit code 75"
            if back:
                # How long 300 rounds take is the machine's: the job does not end before oslo.
                wait_until(lambda: left in self.output(run_dir), lambda: self.last_words(run_dir))
                self.wait_for_more_rounds(run_dir, 2)
                self.stop(process, run_dir)
            else:
                self.assertEqual(process.wait(timeout=LIMIT), 0,
                                 self.output(run_dir) + self.logs(run_dir))
                self.assertIn(left, self.output(run_dir))
                self.assertEqual(len(self.rounds(run_dir)), rounds)
            self.assert_rounds_without_gap(run_dir)
            self.assert_exact_ledger(run_dir)
            self.assert_nothing_left(run_dir)

    @unittest.skipUnless("ATOLL_MOMENTS" in os.environ, "takes minutes: scripts/nightly runs it")
    def test_a_region_that_leaves_at_seeded_moments_comes_back_and_nothing_is_lost(self):
        """Oslo gets SIGTERM: while a checkpoint is being written; then, started again with two
        workers, about when a round is committed, and at any time after its start; and so on,
        ATOLL_MOMENTS of them. ATOLL_SEED: others."""
        moments = int(os.environ["ATOLL_MOMENTS"])
        seed = int(os.environ.get("ATOLL_SEED", "1"))
        choose = random.Random(seed)
        run_dir = self.new_dir("run")
        process = self.start(run_dir, "--set", "train.rounds=100000", "--set",
                             "checkpoint.every=1", "--set", "train.evaluate_every=7")
        self.wait_for_rounds(run_dir, 2)
        with open(os.path.join(run_dir, "orchestrator.json")) as file:
            address = json.load(file)["address"]
        for moment in range(moments):
            what = ("save", "commit", "any")[moment % 3]
            workers, mpirun = self.workers_of(run_dir, "oslo"), None
            if moment > 0:
                mpirun = self.start_oslo(run_dir, address)
                workers = wait_until(lambda: self.two_workers(run_dir, mpirun), "oslo's workers")
                if what != "any":
                    wait_until(lambda: self.region(run_dir, "oslo")["state"] == "training",
                               "oslo is training")
            self.reach(run_dir, what, choose.random())
            told = time.monotonic()
            os.kill(choose.choice(workers), signal.SIGTERM)
            if mpirun is None:
                wait_until(lambda: "region oslo left: exit code 75" in self.output(run_dir),
                           "oslo leaves")
            else:
                self.assertEqual(mpirun.wait(timeout=LIMIT), 75,
                                 f"seed {seed}, moment {moment}: {what}" + self.logs(run_dir))
            print(f"{what}: left in {time.monotonic() - told:.2f} s", flush=True)
            wait_until(lambda: self.region(run_dir, "oslo")["state"] == "left", "oslo has left")
        self.wait_for_more_rounds(run_dir, 2)
        self.stop(process, run_dir)
        self.assert_rounds_without_gap(run_dir)
        self.assert_exact_ledger(run_dir, leavings=moments)
        self.assert_whole_checkpoints(run_dir)

    def start_oslo(self, run_dir, address):
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
                           OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        with open(os.path.join(run_dir, "oslo", "mpirun.log"), "a") as log:
            return subprocess.Popen(["mpirun", "-n", "2", "--oversubscribe", WORKER,
                                     f"--orchestrator={address}", "--region=oslo",
                                     f"--lease={run_dir}/keys/oslo.lease",
                                     f"--run_dir={run_dir}"],
                                    env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=log)

    def two_workers(self, run_dir, mpirun):
        """Once they have said hello: a signal before a program has set its handlers ends it."""
        self.assertIsNone(mpirun.poll(), self.logs(run_dir))
        pids = self.workers_of(run_dir, "oslo")
        return pids if len(pids) == 2 and all(map(self.handles_sigterm, pids)) else None

    @staticmethod
    def handles_sigterm(pid):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("SigCgt:"):
                    return int(line.split()[1], 16) >> signal.SIGTERM - 1 & 1 == 1
        return False

    @staticmethod
    def pass_time(seconds):
        """No event marks a moment in the middle of another process's work."""
        threading.Event().wait(seconds)

    def reach(self, run_dir, what, place):
        """Waits for the moment: `place`, 0 to 1, says where in it."""
        if what == "save":
            directory = os.path.join(run_dir, "oslo", "checkpoints")

            def being_written():
                with contextlib.suppress(OSError):
                    return any(name.endswith(".partial") for name in os.listdir(directory))
                return False
            deadline = time.monotonic() + LIMIT
            while not being_written():
                self.pass_time(0.001)
                self.assertLess(time.monotonic(), deadline, "no checkpoint is being written: " +
                                self.output(run_dir) + self.logs(run_dir))
            return
        times = [line["seconds"] for line in self.rounds(run_dir)[-5:]]
        seconds = sorted(times)[len(times) // 2]
        if what == "commit":
            # A round is told when all have committed it; they do so at the end of its time.
            self.wait_for_more_rounds(run_dir, 1)
            self.pass_time(seconds * (0.85 + 0.15 * place))
        else:
            self.pass_time(place * (2 + 3 * seconds))

    def assert_whole_checkpoints(self, run_dir):
        """All regions that were there at the end have saved the same state; oslo's are whole."""
        digests = {}
        for region in ("johor", "oslo", "batam"):
            directory = os.path.join(run_dir, region, "checkpoints")
            for name in os.listdir(directory):
                manifest = os.path.join(directory, name, "MANIFEST.json")
                if not os.path.exists(manifest):
                    continue
                done = subprocess.run([ATOLL, "checkpoint", "verify",
                                       os.path.join(directory, name)],
                                      capture_output=True, text=True, timeout=LIMIT)
                self.assertEqual(done.returncode, 0, done.stderr)
                with open(manifest) as file:
                    description = json.load(file)["description"]
                digests.setdefault(description["round"], {})[region] = description["digest"]
        last = digests[max(digests)]
        self.assertEqual(sorted(last), ["batam", "johor"])
        for round_number, by_region in digests.items():
            self.assertEqual(len(set(by_region.values())), 1, f"{round_number}: {by_region}")

    def assert_exact_ledger(self, run_dir, leavings=1):
        """What is committed is each sample once, but for what is still in the pool at the end."""
        with contextlib.closing(sqlite3.connect(os.path.join(run_dir, "atoll.db"))) as database:
            rows = database.execute("SELECT first, end, rest FROM samples WHERE superseded=0 "
                                    "AND state=2").fetchall()
        ranges = []
        for first, end, rest in rows:
            ranges.append((first, end))
            for part in (rest or "").split():
                ranges.append(tuple(int(number) for number in part.split("-")))
        ranges = sorted(pair for pair in ranges if pair[1] > pair[0])
        total = sum(end - first for first, end in ranges)
        for before, after in zip(ranges, ranges[1:]):
            self.assertLessEqual(before[1], after[0], "a sample counts twice")
        # A leaver's round may be short by less than what it had: its rest came again.
        self.assertLess(ranges[-1][1] - total, 6 * 4 * leavings)


if __name__ == "__main__":
    unittest.main(verbosity=2)
