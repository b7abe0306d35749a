"""Runs the real programs for the end-to-end tests: whole jobs in directories of their own, with
every process accounted for."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("ATOLL_BUILD", os.path.join(ROOT, "build"))
ATOLL = os.path.join(BUILD, "bin", "atoll")
ORCHESTRATOR = os.path.join(BUILD, "bin", "atoll-orchestrator")
WORKER = os.path.join(BUILD, "bin", "atoll-worker")
LIMIT = 240  # seconds: a whole job of these tests takes about ten

JOB = """\
name: e2e
seed: 11
model: {preset: test-1m, hidden_size: 64, intermediate_size: 128, layers: 2, heads: 4, kv_heads: 2}
data: {tokens: tokens.bin, sequence_length: 64}
train: {rounds: 12, inner_steps: 4, global_batch: 6, micro_batch: 2, learning_rate: 3e-3,
        warmup_steps: 4, evaluate_every: 4, evaluate_samples: 12}
sync: {method: diloco}
checkpoint: {every: 2, keep: 3}
regions: [johor, oslo, batam]
"""


def processes_of(marker):
    """Pids of all processes whose command line holds `marker`, this one left out."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                line = file.read()
            with open(f"/proc/{entry}/stat") as file:
                state = file.read().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if marker.encode() in line and state != "Z":
            found.append(int(entry))
    return found


def wait_until(condition, what, seconds=LIMIT):
    """Waits for an event of another process by asking for it; fails loudly when it never comes.
    `what`: a text, or what gives one when it has not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    what = what() if callable(what) else what
    raise AssertionError(f"never happened within {seconds} s: {what}")


class Job(subprocess.Popen):
    """`atoll train`; where it does not end, what it did last says why."""

    last_words = staticmethod(lambda: "")

    def wait(self, timeout=None):
        try:
            return super().wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"has not ended in {timeout} s\n{self.last_words()}") from error


class JobTest(unittest.TestCase):
    """A directory with a token file and a job; removed afterwards, with what still runs in it."""

    @classmethod
    def setUpClass(cls):
        cls.base = tempfile.mkdtemp(prefix="atoll-e2e-")
        os.chmod(cls.base, 0o755)
        text = os.path.join(cls.base, "text.txt")
        words = ("the sea is wide and an atoll is a ring of islands where small boats "
                 "carry great news").split()
        choose = random.Random(5)
        with open(text, "w") as file:
            for _ in range(20000):
                file.write(choose.choice(words) + (".\n" if choose.random() < 0.1 else " "))
        cls.text = text
        done = subprocess.run([ATOLL, "data", "tokenize", "--input", text, "--tokenizer", "bytes",
                               "--output", os.path.join(cls.base, "tokens.bin")],
                              capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stderr
        cls.job = os.path.join(cls.base, "job.yaml")
        with open(cls.job, "w") as file:
            file.write(JOB)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.base, ignore_errors=True)

    def setUp(self):
        self.dirs = []

    def tearDown(self):
        for run_dir in self.dirs:
            for pid in processes_of(run_dir):
                os.kill(pid, signal.SIGKILL)

    def new_dir(self, name):
        run_dir = os.path.join(self.base, f"{self._testMethodName}-{name}")
        self.dirs.append(run_dir)
        return run_dir

    def command(self, run_dir, *more, regions=3, workers=1, job=None):
        return [ATOLL, "train", job or self.job, f"--regions={regions}", f"--workers={workers}",
                f"--run_dir={run_dir}", *more]

    def train(self, run_dir, *more, expect=0, **how):
        done = subprocess.run(self.command(run_dir, *more, **how), capture_output=True, text=True,
                              timeout=LIMIT,
                              stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, expect,
                         f"{done.args}\n{done.stdout}\n{done.stderr}\n{self.logs(run_dir)}")
        self.assert_nothing_left(run_dir)
        return done

    def start(self, run_dir, *more, **how):
        """Starts a job in the background; its output goes to run_dir.out."""
        with open(run_dir + ".out", "w") as out:
            job = Job(self.command(run_dir, *more, **how), stdout=out, stderr=out,
                      stdin=subprocess.DEVNULL, start_new_session=True)
        job.last_words = lambda: self.last_words(run_dir)
        return job

    def output(self, run_dir):
        with open(run_dir + ".out") as file:
            return file.read()

    def last_words(self, run_dir):
        """Of a job that goes on: which processes there are, what was said, how old it is."""
        def age(name):
            try:
                return time.time() - os.stat(os.path.join(run_dir, name)).st_mtime
            except OSError:
                return float("nan")
        events = self.events(run_dir)[-30:]
        processes = []
        for pid in processes_of(run_dir):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    processes.append(f"{pid} {file.read()[:200]!r}")
            except OSError:  # it has ended
                continue
        return "\n".join([f"{len(self.rounds(run_dir))} rounds, "
                          f"the last one {age('rounds.jsonl'):.1f} s ago", *processes,
                          *(json.dumps(event) for event in events), self.output(run_dir)[-3000:],
                          self.logs(run_dir)])

    def logs(self, run_dir):
        """Tails of all logs, for messages of failed tests."""
        text = ""
        for folder, _, names in os.walk(run_dir):
            for name in names:
                if name.endswith(".log") or name.endswith(".failure.json"):
                    with open(os.path.join(folder, name), errors="replace") as file:
                        text += f"--- {os.path.join(folder, name)}\n{file.read()[-1500:]}\n"
        return text

    def summary(self, run_dir):
        with open(os.path.join(run_dir, "summary.json")) as file:
            return json.load(file)

    def rounds(self, run_dir):
        try:
            with open(os.path.join(run_dir, "rounds.jsonl")) as file:
                return [json.loads(line)
                        for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def events(self, run_dir):
        with open(os.path.join(run_dir, "events.jsonl")) as file:
            return [json.loads(line) for line in file]

    def workers_of(self, run_dir, region):
        """Pids of the region's workers."""
        pids = []
        for pid in processes_of(run_dir):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    line = file.read()
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            except OSError:  # it has ended
                continue
            if program == "atoll-worker" and f"--region={region}" in line:
                pids.append(pid)
        return pids

    def wait_for_rounds(self, run_dir, count):
        wait_until(lambda: len(self.rounds(run_dir)) >= count, f"round {count} in {run_dir}")

    def assert_nothing_left(self, run_dir, seconds=15):
        wait_until(lambda: not processes_of(run_dir), f"no process left of {run_dir}", seconds)
