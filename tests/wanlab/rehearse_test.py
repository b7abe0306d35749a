"""`atoll rehearse`: whole jobs over emulated links, and nothing left of the lab however one ends.
Skipped with the reason where labs cannot be brought up."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from atoll_run import ATOLL, BUILD, LIMIT, JobTest, processes_of, wait_until  # noqa: E402

WANLAB = os.path.join(BUILD, "bin", "wanlab")
LABS = tempfile.mkdtemp(prefix="atoll-labs-")
os.environ["ATOLL_LAB_DIR"] = LABS
LAB = """\
regions: [{name: lagos, up: 200mbit, down: 200mbit}, {name: turin, up: 100mbit, down: 100mbit}]
links: {default: {delay: 20ms, loss: 0.0001}}
"""


def why_no_lab():
    lab = os.path.join(LABS, "probe.yaml")
    with open(lab, "w") as file:
        file.write("regions: [a]\n")
    done = subprocess.run([WANLAB, "run", lab, "--", "true"], capture_output=True, text=True,
                          timeout=LIMIT)
    return done.stderr.strip() if done.returncode != 0 else ""


class RehearseTest(JobTest):
    def setUp(self):
        super().setUp()
        reason = why_no_lab()
        if reason:
            self.skipTest(reason)
        self.lab = os.path.join(self.base, "lab.yaml")
        with open(self.lab, "w") as file:
            file.write(LAB)

    def command(self, run_dir, *more, regions=3, workers=1, job=None):
        return [ATOLL, "rehearse", job or self.job, "--lab", self.lab, f"--workers={workers}",
                f"--run_dir={run_dir}", *more]

    def labs(self):
        done = subprocess.run([WANLAB, "list", "--json"], capture_output=True, text=True,
                              timeout=LIMIT)
        return json.loads(done.stdout)["labs"]

    def test_a_job_trains_over_the_lab(self):
        run_dir = self.new_dir("run")
        done = self.train(run_dir, "--set", "train.rounds=4", workers=2)
        summary = self.summary(run_dir)
        self.assertEqual(summary["state"], "done")
        self.assertEqual(sorted(region["name"] for region in summary["regions"]),
                         ["lagos", "turin"])
        self.assertTrue(summary["digest"])
        # Each parameter crosses the sea in every round, so the relay has seen no less.
        carried = [line for line in done.stderr.split("\n") if line.startswith(" lagos to turin:")]
        self.assertEqual(len(carried), 1, done.stderr)
        self.assertNotIn(" 0 B,", carried[0])
        self.assertEqual(self.labs(), [])

    def test_a_stopped_or_killed_rehearsal_leaves_nothing(self):
        for name, code in [("SIGTERM", 75), ("SIGKILL", -9)]:
            run_dir = self.new_dir(name)
            process = self.start(run_dir, "--set", "train.rounds=1000")
            wait_until(lambda: "round 1/" in self.output(run_dir), "a first round")
            process.send_signal(getattr(signal, name))
            self.assertEqual(process.wait(LIMIT), code, self.output(run_dir))
            wait_until(lambda: self.labs() == [], "the lab goes down")
            wait_until(lambda: processes_of(run_dir) == [], "every process ends")

    def test_a_lab_file_that_is_wrong_is_a_usage_error(self):
        with open(self.lab, "w") as file:
            file.write("regions: [lagos, turin]\nlinks: {default: {dealy: 20ms}}\n")
        done = subprocess.run(self.command(self.new_dir("run")), capture_output=True, text=True,
                              timeout=LIMIT)
        self.assertEqual(done.returncode, 2)
        self.assertIn("lab.yaml:2:19: unknown key 'links.default.dealy'; did you mean "
                      "'links.default.delay'?", done.stderr)
        self.assertEqual(self.labs(), [])


if __name__ == "__main__":
    unittest.main()
