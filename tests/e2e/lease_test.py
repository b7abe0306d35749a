"""Leases: a region comes when its lease begins, leaves after the last round that fits, and the job
says what was planned and what it cost."""

import datetime
import os
import signal
import subprocess
import unittest

from atoll_run import ATOLL, JOB, LIMIT, JobTest, wait_until


def later(seconds):
    time = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


class LeaseTest(JobTest):

    def region(self, run_dir, name):
        return next(region for region in self.summary(run_dir)["regions"]
                    if region["name"] == name)

    def job_with(self, regions):
        path = os.path.join(self.base, self._testMethodName + ".yaml")
        with open(path, "w") as file:
            file.write(JOB.replace("regions: [johor, oslo, batam]", "regions:\n" + regions))
        return path

    def test_a_region_is_there_for_its_lease_and_the_others_before_and_after(self):
        run_dir = self.new_dir("run")
        job = self.job_with("  - {name: johor, lease: {price: 10 USD}}\n"
                            "  - {name: oslo, lease: {start: '%s', end: '%s', lead: 5s, "
                            "price: 3600 USD}}\n" % (later(12), later(27)))
        process = self.start(run_dir, "--set", "train.rounds=100000", "--set",
                             "train.evaluate_every=0", regions=2, job=job)
        self.wait_for_rounds(run_dir, 2)
        wait_until(lambda: self.region(run_dir, "oslo")["state"] == "left", "oslo has left", 150)
        done = len(self.rounds(run_dir))
        self.wait_for_rounds(run_dir, done + 2)
        status = subprocess.run([ATOLL, "status", run_dir], capture_output=True, text=True,
                                timeout=LIMIT)
        self.assertEqual(status.returncode, 0, status.stderr)
        self.assertIn("LEASE", status.stdout)
        self.assertRegex(status.stdout, r"johor +training .* open ")
        self.assertRegex(status.stdout, r"oslo +left ")
        self.assertRegex(status.stdout, r" cost +[0-9.]+ USD so far")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=LIMIT), 75,
                         self.output(run_dir) + self.logs(run_dir))
        self.assertIn("region oslo is started when its lease begins", self.output(run_dir))
        self.assertNotIn("region oslo ended", self.output(run_dir))  # otherwise than with 75
        events = self.events(run_dir)
        kinds = [event["kind"] for event in events if event.get("region") == "oslo"]
        # Where it takes long to start, there is no time left to join.
        self.assertTrue({"lease_ends", "lease_too_short", "leaving"} & set(kinds), kinds)
        lease = self.region(run_dir, "oslo")["lease"]
        self.assertEqual(lease["price_per_hour"], 3600)
        # 10 s of it, at a dollar a second, whatever the region did in them.
        self.assertGreater(lease["cost"], 0)
        self.assertLess(lease["cost"], 10.1)
        self.assertGreater(self.summary(run_dir)["cost"]["so_far"], lease["cost"])
        self.assert_nothing_left(run_dir)


if __name__ == "__main__":
    unittest.main(verbosity=2)
