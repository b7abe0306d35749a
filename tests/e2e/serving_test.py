"""A job that runs gives its checkpoints to `atoll checkpoint pull`, and trains on meanwhile."""
import json
import os
import signal
import socket
import subprocess
import unittest

from atoll_run import ATOLL, LIMIT, JobTest, wait_until

ENDLESS = ("--set", "train.rounds=100000", "--set", "train.evaluate_every=0",
           "--set", "checkpoint.every=10", "--set", "checkpoint.keep=100")


class ServingTest(JobTest):
    def address(self, run_dir, region):
        path = os.path.join(run_dir, region, "checkpoints", ".transfer-address")
        wait_until(lambda: os.path.exists(path), f"an address in {path}")
        with open(path) as file:
            return file.read().strip()

    def run_verb(self, *words):
        return subprocess.run([ATOLL, "checkpoint", *words, "--json"], capture_output=True,
                              text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)

    def checkpoint(self, *words):
        done = self.run_verb(*words)
        self.assertEqual(done.returncode, 0, f"{done.args}\n{done.stdout}\n{done.stderr}")
        return json.loads(done.stdout)

    def test_a_checkpoint_is_pulled_from_two_regions_of_a_running_job(self):
        run_dir, to = self.new_dir("job"), self.new_dir("to")
        key = os.path.join(self.base, "transfer.key")
        self.assertFalse(os.path.exists(key))
        job = self.start(run_dir, *ENDLESS, "--set", "checkpoint.serve.listen=127.0.0.1:0",
                         "--set", f"checkpoint.serve.key_file={key}",
                         "--set", "checkpoint.serve.rate_cap=400mbit", regions=2)
        sources = [self.address(run_dir, region) for region in ("johor", "oslo")]
        self.assertNotEqual(*sources)
        self.assertEqual(os.stat(key).st_mode & 0o777, 0o600)

        def pull():
            done = self.run_verb("pull", *sources, to, "--key", key)
            if done.returncode == 0:
                return json.loads(done.stdout)
            self.assertIn("nobody has a whole checkpoint", done.stderr)
            return None
        pulled = wait_until(pull, "a checkpoint to pull")
        self.assertEqual([one["source"] for one in pulled["sources"]], sources)
        self.assertEqual(sum(one["bytes"] for one in pulled["sources"]), pulled["received_bytes"])
        self.assertTrue(self.checkpoint("verify", to)["whole"])
        # It is a checkpoint of this job, and the job goes on.
        shown = self.checkpoint("show", pulled["path"])
        self.assertEqual(shown["round"], pulled["round"])
        self.wait_for_rounds(run_dir, len(self.rounds(run_dir)) + 3)
        self.assertIsNone(job.poll(), self.output(run_dir))
        job.send_signal(signal.SIGTERM)
        self.assertEqual(job.wait(LIMIT), 75, self.output(run_dir) + self.logs(run_dir))
        self.assert_nothing_left(run_dir)

    def test_a_port_that_is_taken_ends_nothing(self):
        run_dir = self.new_dir("job")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            self.train(run_dir, "--set", "train.rounds=4",
                       "--set", f"checkpoint.serve.listen={listen}", regions=2)
        self.assertEqual([one["round"] for one in self.rounds(run_dir)], [1, 2, 3, 4])
        for region in ("johor", "oslo"):
            names = os.listdir(os.path.join(run_dir, region, "checkpoints"))
            self.assertNotIn(".transfer-address", names)
        self.assertIn("no checkpoints are given yet", self.logs(run_dir))


if __name__ == "__main__":
    unittest.main()
