"""Replicas of checkpoints: who writes them, one that was written from bad memory, and an object
store as one more place."""
import json
import os
import signal
import subprocess
import sys
import unittest
from unittest import mock

from atoll_run import ATOLL, BUILD, LIMIT, ROOT, JobTest, wait_until

sys.path.insert(0, os.path.join(ROOT, "tests", "checkpoint"))
import s3_server  # noqa: E402

BAD_MEMORY = os.path.join(BUILD, "tests", "libbad_memory.so")


class ReplicasTest(JobTest):
    def checkpoint(self, *words):
        done = subprocess.run([ATOLL, "checkpoint", *words, "--json"], capture_output=True,
                              text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def event(self, run_dir, kind):
        """The first event of that kind, or None. The last line may be half written."""
        try:
            with open(os.path.join(run_dir, "events.jsonl")) as file:
                lines = [line for line in file if line.endswith("\n") and f'"{kind}"' in line]
        except FileNotFoundError:
            return None
        return json.loads(lines[0]) if lines else None

    def train_with_bad_memory(self, run_dir, regions):
        """Until what oslo wrote of round 40 is mended."""
        environment = {"LD_PRELOAD": BAD_MEMORY, "BAD_MEMORY_REGION": "oslo"}
        with mock.patch.dict(os.environ, environment):
            # Nothing is removed, however late the mending comes.
            job = self.start(run_dir, "--set", "train.rounds=1000000", "--set",
                             "train.evaluate_every=0", "--set", "checkpoint.every=40",
                             "--set", "checkpoint.keep=1000", regions=regions)
        wait_until(lambda: self.event(run_dir, "checkpoint_mended") or job.poll() is not None,
                   "a mended checkpoint")
        job.send_signal(signal.SIGTERM)
        self.assertEqual(job.wait(LIMIT), 75, self.output(run_dir) + self.logs(run_dir))
        mended = self.event(run_dir, "checkpoint_mended")
        self.assertEqual((mended["region"], mended["round"]), ("oslo", 40))
        paths = [os.path.join(run_dir, region, "checkpoints", "round-000040")
                 for region in ("johor", "oslo", "batam")[:regions]]
        roots = {self.checkpoint("show", path)["replicated_root"] for path in paths}
        self.assertEqual(len(roots), 1)
        self.assertTrue(self.checkpoint("verify", paths[1])["whole"])
        self.assert_nothing_left(run_dir)

    def test_what_bad_memory_wrote_is_named_and_mended_while_rounds_go_on(self):
        run_dir = self.new_dir("run")
        self.train_with_bad_memory(run_dir, 3)
        differs = self.event(run_dir, "checkpoint_differs")
        self.assertEqual((differs["region"], differs["round"]), ("oslo", 40))
        self.assertIn("model-00001-of-00001.safetensors, chunk 0 (1 chunks in all): it is mended "
                      "from batam, johor", differs["text"])

    def test_of_two_replicas_the_one_with_the_rounds_state_is_right(self):
        run_dir = self.new_dir("run")
        self.train_with_bad_memory(run_dir, 2)
        self.assertEqual(self.event(run_dir, "checkpoint_differs")["round"], 40)
        decided = self.event(run_dir, "checkpoint_decided")
        self.assertEqual((decided["region"], decided["round"]), ("oslo", 40))
        self.assertIn("it is mended from johor", decided["text"])
        self.assertIsNone(self.event(run_dir, "checkpoint_undecided"))

    def test_one_region_writes_and_an_object_store_has_the_newest(self):
        run_dir = self.new_dir("run")
        place = "s3://bucket/demo"
        environment = {"AWS_ACCESS_KEY_ID": s3_server.ACCESS, "AWS_REGION": s3_server.REGION,
                       "AWS_SECRET_ACCESS_KEY": s3_server.SECRET,
                       "AWS_ENDPOINT_URL_S3": s3_server.start()}
        with mock.patch.dict(os.environ, environment):
            self.train(run_dir, "--set", "checkpoint.replicas=1 regions", "--set",
                       f"checkpoint.push_to={place}", regions=2)
            newest = self.checkpoint("ls", place)["checkpoints"][0]
            there = os.path.join(self.base, "there")
            self.assertEqual(self.checkpoint("pull", place, there)["round"], 12)
        self.assertEqual(newest["round"], 12)
        self.assertTrue(self.checkpoint("verify", there)["whole"])
        self.assertEqual(self.event(run_dir, "checkpoint_pushed")["region"], "johor")
        self.assertIsNone(self.event(run_dir, "checkpoint_not_pushed"))
        self.assertIn("is complete in 1 regions",
                      self.event(run_dir, "checkpoint_complete")["text"])
        self.assertFalse(os.path.exists(os.path.join(run_dir, "oslo", "checkpoints")))
        # The other region has none of its own when the job goes on.
        self.train(run_dir, "--resume=auto", "--set", "train.rounds=14", "--set",
                   "checkpoint.replicas=1", regions=2)
        self.assertEqual(self.rounds(run_dir)[-1]["round"], 14)


if __name__ == "__main__":
    unittest.main()
