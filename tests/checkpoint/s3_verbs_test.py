"""s3_verbs_test.py ATOLL CHECKPOINT_SAMPLE: the verbs of `atoll checkpoint` with s3:// places, run
as a user runs them, against s3_server.py."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import s3_server

ATOLL = SAMPLE = ""
PLACE = "s3://bucket/demo"


class S3Verbs(unittest.TestCase):

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.keys = os.path.join(self.directory.name, "credentials")
        with open(self.keys, "w") as file:
            file.write("[site]\naws_access_key_id = " + s3_server.ACCESS +
                       "\naws_secret_access_key = " + s3_server.SECRET + "\n")
        self.endpoint = s3_server.start()
        self.here = os.path.join(self.directory.name, "here")
        for round_number in ("7", "8", "9"):
            subprocess.run([SAMPLE, self.here, round_number], check=True)

    def run_verb(self, code, *words, **more):
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("AWS_")}
        environment.update(AWS_SHARED_CREDENTIALS_FILE=self.keys, AWS_PROFILE="site",
                           AWS_REGION=s3_server.REGION, AWS_ENDPOINT_URL_S3=self.endpoint)
        environment.update(more)
        done = subprocess.run([ATOLL, "checkpoint", *words, "--json"], env=environment,
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def test_there_and_back_again(self):
        pushed = [self.run_verb(0, "push", f"{self.here}/round-00000{n}", PLACE) for n in (7, 8)]
        pushed.append(self.run_verb(0, "push", self.here, PLACE))  # the newest
        self.assertEqual([one["round"] for one in pushed], [7, 8, 9])
        self.assertEqual(pushed[0]["bytes_sent"], pushed[0]["bytes"])
        self.assertEqual(self.run_verb(0, "push", self.here, PLACE)["bytes_sent"], 0)
        listed = self.run_verb(0, "ls", PLACE)["checkpoints"]
        self.assertEqual([one["round"] for one in listed], [9, 8, 7])

        there = os.path.join(self.directory.name, "there")
        self.assertEqual(self.run_verb(0, "pull", PLACE, there)["round"], 9)
        self.run_verb(0, "pull", PLACE, there, "--round=7")
        self.run_verb(2, "pull", PLACE, there, "--round=6")
        self.run_verb(2, "pull", PLACE, there, "--round=0")
        # What is there of that round and is another one stays.
        other = os.path.join(self.directory.name, "other")
        shutil.copytree(f"{self.here}/round-000008", f"{other}/round-000009")
        refused = self.run_verb(2, "pull", PLACE, other, "--round=9")
        self.assertIn("is another one", refused["error"]["message"])
        for name in ("round-000007", "round-000009"):
            self.assertTrue(self.run_verb(0, "verify", f"{there}/{name}")["whole"])
            compared = filecmp.dircmp(f"{self.here}/{name}", f"{there}/{name}")
            self.assertEqual(compared.left_only + compared.right_only + compared.diff_files, [])

        model = f"{there}/round-000009/model-00001-of-00001.safetensors"
        if not os.path.exists(model):
            folder = f"{there}/round-000009"
            model = sorted(f"{folder}/{name}" for name in os.listdir(folder)
                           if name.startswith("model-"))[0]
        with open(model, "r+b") as file:
            file.seek(5000)
            file.write(b"damage")
        self.run_verb(2, "verify", f"{there}/round-000009")
        self.run_verb(0, "repair", f"{there}/round-000009", "--from", PLACE)
        self.assertTrue(self.run_verb(0, "verify", f"{there}/round-000009")["whole"])

        would = self.run_verb(0, "prune", PLACE, "--keep=1", "--dry_run")["removed"]
        self.assertEqual(would, [f"{PLACE}/round-000008", f"{PLACE}/round-000007"])
        self.run_verb(0, "prune", PLACE, "--keep=1", "--keep_every=7")
        listed = self.run_verb(0, "ls", PLACE)["checkpoints"]
        self.assertEqual([one["round"] for one in listed], [9, 7])

    def ranges(self, more):
        """Lets so many more ranges be read; bytes of them that were given since the last time."""
        ask = urllib.request.Request(f"{self.endpoint}/_control/ranges/{more}", method="POST")
        with urllib.request.urlopen(ask, timeout=60) as answer:
            return int(answer.read())

    def test_a_pull_that_is_cut_goes_on_where_it_was(self):
        wanted = self.run_verb(0, "push", self.here, PLACE)["bytes"]
        there = os.path.join(self.directory.name, "there")
        self.ranges(1)
        self.run_verb(4, "pull", PLACE, there)
        first = self.ranges(1)
        self.assertTrue(0 < first < wanted)
        self.assertFalse(os.path.exists(f"{there}/round-000009"))
        self.run_verb(4, "pull", PLACE, there)
        second = self.ranges(-1)
        self.assertTrue(0 < second < wanted - first)
        done = self.run_verb(0, "pull", PLACE, there)
        # What was verified before a cut is not asked for again.
        self.assertEqual(done["resumed_bytes"], first + second)
        self.assertEqual(self.ranges(-1), wanted - first - second)
        self.assertEqual(done["received_bytes"], wanted - first - second)
        self.assertTrue(self.run_verb(0, "verify", done["path"])["whole"])
        self.assertEqual([name for name in os.listdir(there) if name.endswith(".pull")], [])
        self.assertTrue(self.run_verb(0, "pull", PLACE, there)["was_there"])

    def test_a_pull_says_what_is_damaged_there_and_goes_on_when_it_is_mended(self):
        folder = f"{self.here}/round-000009"
        model = sorted(f"{folder}/{name}" for name in os.listdir(folder)
                       if name.startswith("model-"))[0]
        with open(model, "rb") as file:
            whole = file.read()
        self.run_verb(0, "push", self.here, PLACE)
        objects = s3_server.objects(self.endpoint)
        key = next(name for name in objects if name.endswith("/" + os.path.basename(model)))
        data, root = objects[key]
        objects[key] = (data[:-1] + bytes([data[-1] ^ 1]), root)
        there = os.path.join(self.directory.name, "there")
        self.assertFalse(self.run_verb(2, "pull", PLACE, there)["whole"])
        self.assertFalse(os.path.exists(f"{there}/round-000009"))
        objects[key] = (data, root)
        self.ranges(-1)
        done = self.run_verb(0, "pull", PLACE, there)
        self.assertEqual(self.ranges(-1), done["received_bytes"])
        self.assertLessEqual(done["received_bytes"], len(whole))
        with open(f"{there}/round-000009/{os.path.basename(model)}", "rb") as file:
            self.assertEqual(file.read(), whole)

    def test_mistakes_are_named(self):
        self.run_verb(2, "push", self.here, "s3://")
        self.run_verb(2, "push", self.here, PLACE, AWS_PROFILE="nobody")
        self.run_verb(4, "push", self.here, PLACE, AWS_REGION="elsewhere")
        self.run_verb(2, "push", self.here, PLACE, AWS_ENDPOINT_URL_S3="ftp://x")
        self.run_verb(2, "pull", PLACE, self.here + "2")


if __name__ == "__main__":
    ATOLL, SAMPLE = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1], verbosity=2)
