"""The demo learns, and three regions that meet every few steps learn nearly as well as one region
that averages every step: `ctest -L slow`, or this file by itself. Takes about three minutes."""

import json
import os
import subprocess
import tempfile
import unittest

from atoll_run import ATOLL, ROOT

JOB = os.path.join(ROOT, "configs", "jobs", "demo.yaml")


def train(*flags):
    with tempfile.TemporaryDirectory(prefix="atoll-demo-") as run_dir:
        subprocess.run([ATOLL, "train", JOB, f"--run_dir={run_dir}", *flags], check=True,
                       stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=1200)
        with open(os.path.join(run_dir, "summary.json")) as file:
            summary = json.load(file)
        with open(os.path.join(run_dir, "job.yaml")) as file:
            return summary, file.read()


class DemoLoss(unittest.TestCase):
    def test_held_out_loss_falls_by_55_percent_and_stays_within_3_percent_of_every_step(self):
        regions, job = train("--regions=3", "--workers=1")
        steps = 1
        for line in job.splitlines():
            key, _, value = line.strip().partition(": ")
            if key in ("rounds", "inner_steps"):
                steps *= int(value)
        one, _ = train("--regions=1", "--workers=2", "--set", "sync.method=every_step",
                       "--set", f"train.rounds={steps}", "--set", "train.evaluate_every=0",
                       "--set", "checkpoint.every=0")
        self.assertEqual(regions["tokens"], one["tokens"])
        first, last = regions["validation_loss_first"], regions["validation_loss"]
        reference = one["validation_loss"]
        print(f"diloco {first:.4f} -> {last:.4f}, every_step {reference:.4f}, "
              f"ratio {last / reference:.4f}")
        self.assertLess(last, 0.45 * first)
        self.assertLess(last, 1.03 * reference)


if __name__ == "__main__":
    unittest.main(verbosity=2)
