"""A job's model goes out in Hugging Face's layout, comes back, and another job starts from it."""
import json
import os
import subprocess
import unittest

from atoll_run import ATOLL, LIMIT, JobTest

SHORT = ("--set", "train.rounds=4", "--set", "checkpoint.every=2")


class ExportTest(JobTest):
    def checkpoint(self, *words):
        done = subprocess.run([ATOLL, "checkpoint", *words, "--json"], capture_output=True,
                              text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_a_job_starts_where_an_exported_one_ended(self):
        first = self.new_dir("first")
        self.train(first, *SHORT, regions=2)
        self.assertTrue(self.checkpoint("verify", first)["whole"])
        model = os.path.join(self.base, "model")
        self.assertEqual(self.checkpoint("export", first, model, "--dtype=fp32")["tokenizer"],
                         "bytes")
        start = self.checkpoint("import", model, os.path.join(self.base, "start"))["resume"]
        ended = self.summary(first)
        for method in ("diloco", "every_step"):
            with self.subTest(method):
                run_dir = self.new_dir(method)
                self.train(run_dir, *SHORT, f"--resume={start}", "--set", f"sync.method={method}",
                           regions=2)
                summary = self.summary(run_dir)
                # The same weights on the same held-out samples.
                self.assertAlmostEqual(summary["validation_loss_first"], ended["validation_loss"],
                                       places=5)
                self.assertEqual([r["round"] for r in self.rounds(run_dir)], [1, 2, 3, 4])
                self.assertEqual(summary["resumed_from"], None)
                self.assertTrue(self.checkpoint("verify", run_dir)["whole"])


if __name__ == "__main__":
    unittest.main()
