"""A job whose checkpoints are encrypted: it resumes, its regions' replicas are the same, other keys
and other people are refused, and the key itself is nowhere to be found."""
import json
import os
import subprocess
import unittest

from atoll_run import ATOLL, LIMIT, JobTest


class EncryptionTest(JobTest):
    def checkpoint(self, *words, expect=0):
        done = subprocess.run([ATOLL, "checkpoint", *words, "--json"], capture_output=True,
                              text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, expect, f"{words} {done.stdout} {done.stderr}")
        self.said.append(done.stdout + done.stderr)
        return json.loads(done.stdout)

    def encrypted(self, run_dir, rounds, *more, expect=0, workers=1):
        done = self.train(run_dir, "--set", f"train.rounds={rounds}", "--set", "checkpoint.every=2",
                          *more, regions=2, workers=workers, expect=expect)
        self.said.append(done.stdout + done.stderr)
        return done.stdout + done.stderr

    def key(self, name):
        path = os.path.join(self.base, name)
        self.checkpoint("keygen", path)
        with open(path) as file:
            return path, file.read().strip()

    def files_that_hold(self, text):
        found = []
        for folder, _, names in os.walk(self.base):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    if text in file.read():
                        found.append(name)
        return found

    def test_a_job_goes_on_from_what_only_its_key_opens(self):
        self.said = []
        key, digits = self.key("right.key")
        other, _ = self.key("wrong.key")
        run_dir = self.new_dir("run")
        self.encrypted(run_dir, 4, f"--encryption_key={key}", workers=2)

        self.assertTrue(self.checkpoint("verify", run_dir)["whole"])
        self.assertTrue(self.checkpoint("verify", run_dir, f"--encryption_key={key}")["whole"])
        self.assertFalse(
            self.checkpoint("verify", run_dir, f"--encryption_key={other}", expect=2)["whole"])
        shown = [self.checkpoint("show", os.path.join(run_dir, region), f"--encryption_key={key}")
                 for region in ("johor", "oslo")]
        self.assertEqual([each["round"] for each in shown], [4, 4])
        self.assertTrue(all(each["encryption"]["authentic"] for each in shown))
        self.assertEqual(shown[0]["replicated_root"], shown[1]["replicated_root"])
        self.assertNotEqual(shown[0]["root"], shown[1]["root"])

        # Neither without the key nor with another does a run begin anew, or touch what is there.
        before = self.checkpoint("ls", run_dir)
        self.assertIn("no key was given", self.encrypted(run_dir, 6, expect=2))
        self.assertIn("is encrypted with the key", self.encrypted(
            run_dir, 6, f"--encryption_key={other}", expect=2))
        self.assertEqual(self.checkpoint("ls", run_dir), before)

        self.encrypted(run_dir, 6, f"--encryption_key_command=cat '{key}'")
        self.assertEqual([each["round"] for each in self.rounds(run_dir)], [1, 2, 3, 4, 5, 6])

        out = os.path.join(self.base, "model")
        self.checkpoint("export", run_dir, out, expect=2)
        self.checkpoint("export", run_dir, out, f"--encryption_key={other}", expect=2)
        self.checkpoint("export", run_dir, out, f"--encryption_key_command=cat '{key}'",
                        "--dtype=fp32")
        start = self.checkpoint("import", out, os.path.join(self.base, "start"),
                                f"--encryption_key={key}")["resume"]
        again = os.path.join(self.base, "again")
        self.checkpoint("export", start, again, f"--encryption_key={key}", "--dtype=fp32")
        with open(os.path.join(out, "model.safetensors"), "rb") as one, \
                open(os.path.join(again, "model.safetensors"), "rb") as two:
            self.assertEqual(one.read(), two.read())

        self.assertEqual(self.files_that_hold(digits.encode()), ["right.key"])
        self.assertEqual(self.files_that_hold(bytes.fromhex(digits)), [])
        self.assertNotIn(digits, "".join(self.said))


if __name__ == "__main__":
    unittest.main()
