"""What users get wrong: each ends with the right exit code and a message that says what, where and
what to do."""

import json
import os
import pathlib
import socket
import subprocess
import unittest

from atoll_run import ATOLL, LIMIT, ORCHESTRATOR, WORKER, JobTest, wait_until


class BadInput(JobTest):
    def assert_says(self, done, *words):
        for word in words:
            self.assertIn(word, done.stdout + done.stderr)

    def run_program(self, *command, expect, environment=None):
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT,
                              stdin=subprocess.DEVNULL,
                              env=dict(os.environ, **(environment or {})))
        self.assertEqual(done.returncode, expect, f"{command}\n{done.stdout}\n{done.stderr}")
        return done

    def test_a_typo_in_the_job_file(self):
        path = os.path.join(self.base, "typo.yaml")
        with open(self.job) as source, open(path, "w") as file:
            file.write(source.read().replace("inner_steps", "inner_step"))
        done = self.train(self.new_dir("run"), expect=2, job=path)
        self.assert_says(done, "typo.yaml:5:", "inner_step", "inner_steps")
        done = self.run_program(ATOLL, "check", path, expect=2)
        self.assert_says(done, "did you mean")

    def test_a_missing_token_file(self):
        done = self.train(self.new_dir("run"), "--set", "data.tokens=" + self.base + "/none.bin",
                          expect=2)
        self.assert_says(done, "none.bin", "atoll data tokenize")

    def test_a_job_file_that_is_not_there(self):
        done = self.train(self.new_dir("run"), expect=2, job=self.base + "/none.yaml")
        self.assert_says(done, "none.yaml")

    def test_a_truncated_checkpoint(self):
        first = self.new_dir("first")
        self.train(first, "--set", "train.rounds=2")
        checkpoint = os.path.join(first, "johor", "checkpoints", "round-000002")
        model = [name for name in os.listdir(checkpoint) if name.startswith("model-")][0]
        os.truncate(os.path.join(checkpoint, model), 5000)
        done = self.train(self.new_dir("second"), f"--resume={checkpoint}", expect=2)
        self.assert_says(done, model)

    def test_an_alien_checkpoint(self):
        alien = os.path.join(self.base, "alien")
        os.makedirs(alien, exist_ok=True)
        with open(os.path.join(alien, "MANIFEST.json"), "w") as file:
            file.write('{"hello": "world"}')
        done = self.train(self.new_dir("run"), f"--resume={alien}", expect=2)
        self.assert_says(done, "MANIFEST.json")

    def test_a_checkpoint_of_another_model(self):
        first = self.new_dir("first")
        self.train(first, "--set", "train.rounds=2", "--set", "model.layers=1")
        done = self.train(self.new_dir("second"), f"--resume={first}", expect=2)
        self.assert_says(done, "another model")

    def test_a_resume_path_that_does_not_exist(self):
        done = self.train(self.new_dir("run"), f"--resume={self.base}/nowhere", expect=2)
        self.assert_says(done, "nowhere")

    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            run_dir = self.new_dir("run")
            done = self.run_program(ORCHESTRATOR, f"--job={self.job}",
                                    f"--listen=tcp://127.0.0.1:{port}",
                                    f"--run_dir={run_dir}", f"--keys={run_dir}/keys", expect=4)
            self.assert_says(done, str(port), "in use")

    def test_an_orchestrator_that_is_not_there(self):
        run_dir = self.new_dir("run")
        first = self.new_dir("keys")
        self.make_keys(first)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        done = self.run_program(WORKER, f"--orchestrator=tcp://127.0.0.1:{port}", "--region=johor",
                                f"--lease={first}/keys/johor.lease", f"--run_dir={run_dir}",
                                "--orchestrator_wait=3s", expect=5)
        self.assert_says(done, str(port))

    def make_keys(self, run_dir):
        """An orchestrator makes keys and leases when it starts."""
        orchestrator = subprocess.Popen([ORCHESTRATOR, f"--job={self.job}",
                                         "--listen=tcp://127.0.0.1:0",
                                         f"--run_dir={run_dir}", f"--keys={run_dir}/keys"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        note = os.path.join(run_dir, "orchestrator.json")
        try:
            wait_until(lambda: os.path.exists(note), "the orchestrator listens")
            wait_until(lambda: os.path.exists(f"{run_dir}/keys/johor.lease"),
                       "the leases are written")
            with open(note) as file:
                self.address = json.load(file)["address"]
        except BaseException:
            orchestrator.kill()
            raise
        self.addCleanup(orchestrator.wait)
        self.addCleanup(orchestrator.kill)
        return orchestrator

    def test_a_worker_with_a_wrong_key(self):
        ours, others = self.new_dir("ours"), self.new_dir("others")
        self.make_keys(others)
        self.make_keys(ours)
        done = self.run_program(WORKER, f"--orchestrator={self.address}", "--region=johor",
                                f"--lease={others}/keys/johor.lease", f"--run_dir={ours}", expect=2)
        self.assert_says(done, "lease")

    def test_a_worker_without_a_lease(self):
        run_dir = self.new_dir("run")
        done = self.run_program(WORKER, "--orchestrator=tcp://127.0.0.1:1", "--region=johor",
                                f"--run_dir={run_dir}",
                                environment={"ATOLL_KEYS": self.base + "/nokeys"}, expect=2)
        self.assert_says(done, "johor.lease")

    @unittest.skipUnless(os.geteuid() == 0, "only root can make a small disk")
    def test_a_full_disk(self):
        disk = self.new_dir("disk")
        os.makedirs(disk)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
        try:
            done = self.train(os.path.join(disk, "run"), expect=4)
            self.assert_says(done, "space")
        finally:
            subprocess.run(["umount", "-l", disk], check=True)

    @unittest.skipUnless(os.geteuid() == 0, "only root can make a small disk")
    def test_a_disk_that_fills_up_while_training_keeps_the_last_checkpoint(self):
        disk = self.new_dir("disk")
        os.makedirs(disk)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
        try:
            run_dir = os.path.join(disk, "run")
            # Opened first: a quick job can fill so small a disk with its own checkpoints.
            with open(os.path.join(disk, "filler"), "wb", buffering=0) as filler:
                process = self.start_outside(run_dir, os.path.join(self.base, "full.out"))
                self.wait_for_rounds(run_dir, 2)
                wait_until(lambda: os.path.isdir(run_dir + "/johor/checkpoints/round-000002"),
                           "a checkpoint")
                try:
                    while True:
                        filler.write(b"x" * 65536)
                except OSError:
                    pass
            self.assertEqual(process.wait(timeout=LIMIT), 4, open(os.path.join(self.base,
                                                                               "full.out")).read())
            self.assertIn("space", open(os.path.join(self.base, "full.out")).read())
            kept = pathlib.Path(run_dir, "johor", "checkpoints").glob("round-*/MANIFEST.json")
            self.assertTrue(list(kept))
            self.assert_nothing_left(run_dir)
        finally:
            subprocess.run(["umount", "-l", disk], check=True)

    def start_outside(self, run_dir, out_path):
        with open(out_path, "w") as out:
            return subprocess.Popen(self.command(run_dir, "--set", "train.rounds=100000"),
                                    stdout=out, stderr=out,
                                    stdin=subprocess.DEVNULL, start_new_session=True)

    def test_a_run_directory_in_use(self):
        run_dir = self.new_dir("run")
        process = self.start(run_dir, "--set", "train.rounds=100000")
        self.wait_for_rounds(run_dir, 1)
        done = subprocess.run(self.command(run_dir), capture_output=True, text=True, timeout=LIMIT)
        self.assertEqual(done.returncode, 4, done.stdout + done.stderr)
        self.assert_says(done, run_dir)
        self.assertIsNone(process.poll(), "the first job goes on")
        process.terminate()
        self.assertEqual(process.wait(timeout=LIMIT), 75)

    def test_status_of_what_is_no_run_directory(self):
        done = self.run_program(ATOLL, "status", self.base, expect=2)
        self.assert_says(done, self.base)


if __name__ == "__main__":
    unittest.main(verbosity=2)
