"""A few faults in a lab of four regions: `atoll chaos` finds nothing broken. That it would, shows
tests/cli/chaos_test.cc."""

import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from atoll_run import ATOLL, LIMIT, JobTest  # noqa: E402

# A round takes more than 0.1 s at 80 ms; a fault up to 10 s, and they come every quarter of these.
ROUNDS = 360


@unittest.skipUnless(os.geteuid() == 0, "labs need root")
class ChaosTest(JobTest):

    def test_four_faults_break_nothing(self):
        run_dir = self.new_dir("run")
        done = subprocess.run([ATOLL, "chaos", self.job, f"--run_dir={run_dir}", "--json",
                               "--faults=4", "--seed=3", "--set", f"train.rounds={ROUNDS}",
                               "--set", "train.global_batch=8"],
                              capture_output=True, text=True, timeout=LIMIT,
                              stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + self.logs(run_dir))
        answer = json.loads(done.stdout)
        self.assertEqual(answer["broken"], [])
        self.assertEqual(answer["rounds"], ROUNDS)
        self.assertGreater(answer["views"], 1, "no fault changed a view")
        self.assert_nothing_left(run_dir)


if __name__ == "__main__":
    unittest.main(verbosity=2)
