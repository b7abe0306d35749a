"""Whole jobs: done, repeated, killed, stopped, resumed."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import unittest

from atoll_run import ATOLL, JOB, LIMIT, ORCHESTRATOR, WORKER, JobTest, processes_of, wait_until


class Train(JobTest):
    def test_three_regions_train_to_the_end_with_equal_bits(self):
        run_dir = self.new_dir("run")
        done = self.train(run_dir)
        self.assertIn(run_dir, done.stdout)
        summary = self.summary(run_dir)
        self.assertEqual(summary["state"], "done")
        self.assertEqual(summary["rounds_committed"], 12)
        self.assertEqual(summary["tokens"], 12 * 4 * 6 * 64)
        self.assertEqual([region["name"] for region in summary["regions"]], ["johor", "oslo",
                                                                             "batam"])
        for region in summary["regions"]:
            self.assertEqual(region["digest"], summary["digest"])
            self.assertEqual(region["workers"], 1)
            self.assertEqual(region["tokens"], summary["tokens"] // 3)
        self.assertLess(summary["train_loss_last"], summary["train_loss_first"])
        self.assertGreater(summary["validation_loss"], 0)
        self.assertGreater(summary["wan_bytes_sent"], 12 * 3 * 100000)
        self.assertGreater(summary["wall_seconds"], 0)
        self.assertTrue(0 < summary["compute_utilization"] <= 1)
        rounds = self.rounds(run_dir)
        self.assertEqual([line["round"] for line in rounds], list(range(1, 13)))
        self.assertEqual(rounds[-1]["digest"], summary["digest"])
        for line in rounds:
            self.assertEqual(line["tokens"], 4 * 6 * 64)
            self.assertLessEqual(line["wan_seconds"], line["seconds"])
        kinds = {event["kind"] for event in self.events(run_dir)}
        self.assertIn("evaluated", kinds)

    def test_workers_of_one_host_train_on_vectors_that_they_share(self):
        run_dir = self.new_dir("run")
        self.train(run_dir, "--set", "train.rounds=3", regions=2, workers=2)
        summary = self.summary(run_dir)
        self.assertEqual(summary["rounds_committed"], 3)
        self.assertLess(summary["train_loss_last"], summary["train_loss_first"])
        for region in summary["regions"]:
            self.assertEqual(region["workers"], 2)
            self.assertEqual(region["digest"], summary["digest"])
        logs = sorted(pathlib.Path(run_dir).glob("*/attempt-1/rank-*.log"))
        self.assertEqual(len(logs), 4)
        for log in logs:
            self.assertIn("parameters and gradients lie in memory", log.read_text(), log)

    def test_two_jobs_side_by_side_with_one_seed_end_in_the_same_digest(self):
        first, second = self.new_dir("first"), self.new_dir("second")
        processes = [self.start(first), self.start(second)]
        codes = [process.wait(timeout=LIMIT) for process in processes]
        self.assertEqual(codes, [0, 0], self.output(first) + self.output(second))
        self.assertEqual(self.summary(first)["digest"], self.summary(second)["digest"])
        for run_dir in (first, second):
            self.assert_nothing_left(run_dir)

    def test_a_run_killed_after_round_five_resumes_to_the_same_bits(self):
        whole, killed = self.new_dir("whole"), self.new_dir("killed")
        # A checkpoint every four rounds: the kill comes long after one and long before the next. A
        # region that is killed while others have saved a newer one would load theirs, and begin
        # with fresh inner state.
        seldom = ("--set", "checkpoint.every=4")
        self.train(whole, *seldom)
        process = self.start(killed, *seldom)
        self.wait_for_rounds(killed, 5)
        for pid in processes_of(killed):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait(timeout=LIMIT)
        self.assert_nothing_left(killed)
        self.assertLess(len(self.rounds(killed)), 12, "killed too late to test anything")
        self.train(killed, "--resume=auto", *seldom)
        self.assertEqual(self.summary(killed)["digest"], self.summary(whole)["digest"])
        self.assertEqual([line["round"] for line in self.rounds(killed)], list(range(1, 13)))
        self.assertEqual([line["digest"] for line in self.rounds(killed)],
                         [line["digest"] for line in self.rounds(whole)])
        self.assertEqual(self.summary(killed)["tokens"], self.summary(whole)["tokens"])

    def test_with_the_codec_int8_a_killed_run_resumes_to_the_same_bits(self):
        whole, killed = self.new_dir("whole"), self.new_dir("killed")
        # Seldom, as above.
        codec = ("--set", "sync.codec=int8", "--set", "checkpoint.every=4")
        self.train(whole, *codec)
        process = self.start(killed, *codec)
        self.wait_for_rounds(killed, 5)
        for pid in processes_of(killed):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait(timeout=LIMIT)
        self.assert_nothing_left(killed)
        self.assertLess(len(self.rounds(killed)), 12, "killed too late to test anything")
        self.train(killed, "--resume=auto", *codec)
        self.assertEqual([line["digest"] for line in self.rounds(killed)],
                         [line["digest"] for line in self.rounds(whole)])
        saved = os.listdir(os.path.join(whole, "oslo", "checkpoints", "round-000012", "optim"))
        self.assertIn("residual-00001-of-00001.safetensors", saved)

    def test_a_silent_region_is_left_out_until_it_speaks_again(self):
        run_dir = self.new_dir("run")
        process = self.start(run_dir, "--set", "train.rounds=100000")
        self.wait_for_rounds(run_dir, 1)
        (oslo,) = self.workers_of(run_dir, "oslo")

        def state_of_oslo():
            return self.summary(run_dir)["regions"][1]["state"]

        os.kill(oslo, signal.SIGSTOP)
        try:
            wait_until(lambda: state_of_oslo() != "training", "oslo is missed")
            before = len(self.rounds(run_dir))
            self.wait_for_rounds(run_dir, before + 3)
        finally:
            os.kill(oslo, signal.SIGCONT)
        wait_until(lambda: state_of_oslo() == "training", "oslo is back")
        self.wait_for_rounds(run_dir, len(self.rounds(run_dir)) + 10)
        self.assertIn("suspected", {event["kind"] for event in self.events(run_dir)})
        wait_until(lambda: [link["region"] for link in self.summary(run_dir)["regions"][0]["links"]]
                   == ["oslo", "batam"], "a heartbeat tells of the links to both")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=LIMIT), 75, self.output(run_dir))
        for region in self.summary(run_dir)["regions"]:
            for link in region["links"]:
                self.assertGreater(link["bytes_sent"], 100000)
                self.assertGreater(link["up_bytes_per_second"], 0)
                self.assertGreater(link["connections"], 0)
        status = subprocess.run([ATOLL, "status", run_dir], capture_output=True, text=True,
                                timeout=LIMIT, check=True).stdout
        for line in ("johor -> oslo", "oslo -> johor", "batam -> johor"):
            self.assertIn(line, status)

    def test_a_term_signal_while_regions_connect_stops_them_at_once(self):
        with self.connecting() as (run_dir, orchestrator, regions):
            orchestrator.send_signal(signal.SIGTERM)
            self.assertEqual([region.wait(timeout=LIMIT) for region in regions], [75, 75],
                             self.logs(run_dir))
            self.assertEqual(orchestrator.wait(timeout=LIMIT), 75)
        summary = self.summary(run_dir)
        self.assertEqual(summary["state"], "stopped", summary["reason"])
        self.assertEqual(summary["rounds_committed"], 0)

    def test_a_region_that_gets_a_term_signal_while_it_connects_leaves_at_once(self):
        with self.connecting() as (run_dir, orchestrator, regions):
            (johor,) = self.workers_of(run_dir, "johor")
            os.kill(johor, signal.SIGTERM)
            self.assertEqual(regions[0].wait(timeout=LIMIT), 75, self.logs(run_dir))
            wait_until(lambda: self.summary(run_dir)["state"] == "waiting", "oslo is to wait")
            orchestrator.send_signal(signal.SIGTERM)
            self.assertEqual(regions[1].wait(timeout=LIMIT), 75, self.logs(run_dir))
            self.assertEqual(orchestrator.wait(timeout=LIMIT), 75)

    @contextlib.contextmanager
    def connecting(self):
        """Two regions that call one another where nobody listens."""
        run_dir = self.new_dir("run")
        keys = os.path.join(run_dir, "keys")
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
                           OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", ATOLL_KEYS=keys)
        command = [ORCHESTRATOR, f"--job={self.job}", "--listen=tcp://127.0.0.1:0",
                   f"--run_dir={run_dir}", f"--keys={keys}", "--regions=2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) as orchestrator:
            note = os.path.join(run_dir, "orchestrator.json")
            wait_until(lambda: os.path.exists(note), "the orchestrator listens")
            with open(note) as file:
                address = json.load(file)["address"]
            regions = []
            for name in ("johor", "oslo"):
                worker = ["mpirun", "-n", "1", "--oversubscribe", WORKER,
                          f"--orchestrator={address}", f"--region={name}", f"--run_dir={run_dir}",
                          "--wan_advertise=127.0.0.2"]
                regions.append(subprocess.Popen(worker, env=environment, stdin=subprocess.DEVNULL,
                                                stdout=subprocess.DEVNULL,
                                                stderr=subprocess.DEVNULL))
            try:
                wait_until(lambda: os.path.exists(os.path.join(run_dir, "summary.json")),
                           "a summary")
                wait_until(lambda: "waiting for oslo since" in
                           self.summary(run_dir)["regions"][0]["doing"], "johor waits for oslo")
                yield run_dir, orchestrator, regions
            finally:
                for process in [orchestrator, *regions]:
                    process.kill()

    def test_a_term_signal_stops_cleanly_and_the_next_start_goes_on(self):
        run_dir = self.new_dir("run")
        process = self.start(run_dir)
        self.wait_for_rounds(run_dir, 3)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=LIMIT), 75, self.output(run_dir))
        self.assert_nothing_left(run_dir)
        summary = self.summary(run_dir)
        self.assertEqual(summary["state"], "stopped")
        stopped_at = summary["rounds_committed"]
        checkpoint = os.path.join(run_dir, "johor", "checkpoints", f"round-{stopped_at:06d}",
                                  "MANIFEST.json")
        self.assertTrue(os.path.exists(checkpoint), f"no checkpoint of round {stopped_at}")
        self.train(run_dir)
        self.assertEqual(self.summary(run_dir)["rounds_committed"], 12)

    def test_a_killed_launcher_leaves_no_process_behind(self):
        run_dir = self.new_dir("run")
        process = self.start(run_dir, "--set", "train.rounds=100000")
        self.wait_for_rounds(run_dir, 1)
        process.kill()
        process.wait(timeout=LIMIT)
        self.assert_nothing_left(run_dir)

    def test_a_killed_worker_that_is_not_started_again_ends_its_job_and_is_named(self):
        run_dir = self.new_dir("run")
        alone = os.path.join(self.base, "alone.yaml")
        with open(alone, "w") as file:
            file.write(JOB.replace("[johor, oslo, batam]", "[oslo]"))
        process = self.start(run_dir, "--set", "train.rounds=100000", "--restart=0", regions=1,
                             workers=2, job=alone)
        self.wait_for_rounds(run_dir, 1)
        victims = self.workers_of(run_dir, "oslo")
        self.assertEqual(len(victims), 2)
        os.kill(victims[0], signal.SIGKILL)
        self.assertEqual(process.wait(timeout=LIMIT), 1, self.output(run_dir))
        self.assertIn("oslo", self.output(run_dir))
        self.assertIn("FAILED", self.output(run_dir))
        for words in pathlib.Path(run_dir).glob("*/attempt-*/rank-*.failure.json"):
            self.assertFalse(json.loads(words.read_text())["cause"], f"{words} is of a victim")
        self.assertEqual(self.summary(run_dir)["state"], "stopped")
        self.assert_nothing_left(run_dir)

    def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(self):
        run_dir = self.new_dir("run")
        self.train(run_dir, "--set", "train.rounds=6")
        whole = self.new_dir("whole")
        self.train(whole)
        newest = os.path.join(run_dir, "oslo", "checkpoints", "round-000006")
        for name in os.listdir(newest):
            if name.endswith(".safetensors"):
                path = os.path.join(newest, name)
                with open(path, "r+b") as file:
                    file.seek(os.path.getsize(path) - 100)
                    byte = file.read(1)
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte[0] ^ 1]))
        self.train(run_dir)
        self.assertEqual(self.summary(run_dir)["rounds_committed"], 12)
        self.assertIn("checkpoint_unusable", {event["kind"] for event in self.events(run_dir)})

    def test_every_step_gives_the_same_losses_however_the_batch_is_cut(self):
        losses = {}
        for regions, workers in ((1, 1), (3, 1), (1, 3)):
            run_dir = self.new_dir(f"{regions}x{workers}")
            self.train(run_dir, "--set", "sync.method=every_step", "--set", "train.rounds=20",
                       "--set",
                       "checkpoint.every=0", regions=regions, workers=workers)
            losses[regions, workers] = [line["train_loss"] for line in self.rounds(run_dir)]
            self.assertEqual(len(losses[regions, workers]), 20)
        for cut, values in losses.items():
            for ours, reference in zip(values, losses[1, 1]):
                self.assertLess(abs(ours - reference) / reference, 1e-4, cut)

    def test_parts_started_by_hand_do_the_same_job(self):
        by_hand, by_train = self.new_dir("hand"), self.new_dir("train")
        keys = os.path.join(by_hand, "keys")
        command = [ORCHESTRATOR, f"--job={self.job}", "--listen=tcp://127.0.0.1:0",
                   f"--run_dir={by_hand}", f"--keys={keys}", "--regions=2",
                   "--set", "train.rounds=3"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) as orchestrator:
            note = os.path.join(by_hand, "orchestrator.json")
            wait_until(lambda: os.path.exists(note), "the orchestrator listens")
            with open(note) as file:
                address = json.load(file)["address"]
            environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
                               OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", ATOLL_KEYS=keys)
            regions = [subprocess.Popen(["mpirun", "-n", "2", "--oversubscribe", WORKER,
                                         f"--orchestrator={address}", f"--region={name}",
                                         f"--run_dir={by_hand}"],
                                        env=environment, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
                       for name in ("johor", "oslo")]
            self.assertEqual([region.wait(timeout=LIMIT) for region in regions], [0, 0],
                             self.logs(by_hand))
            self.assertEqual(orchestrator.wait(timeout=LIMIT), 0)
        self.train(by_train, "--set", "train.rounds=3", regions=2, workers=2)
        self.assertEqual(self.summary(by_hand)["digest"], self.summary(by_train)["digest"])

    @unittest.skipUnless(os.geteuid() == 0, "only root can become somebody else")
    def test_an_ordinary_user_can_do_it_too(self):
        run_dir = self.new_dir("run")
        os.makedirs(run_dir)
        os.chown(run_dir, 65534, 65534)
        done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                               *self.command(run_dir, "--set", "train.rounds=2")],
                              env=dict(os.environ,
                                       HOME=run_dir), capture_output=True, text=True, timeout=LIMIT)
        self.assertEqual(done.returncode, 0, done.stderr + self.logs(run_dir))
        self.assert_nothing_left(run_dir)

    def test_status_answers_while_it_runs_and_afterwards(self):
        run_dir = self.new_dir("run")
        process = self.start(run_dir)
        self.wait_for_rounds(run_dir, 2)
        during = json.loads(subprocess.run([ATOLL, "status", run_dir, "--json"],
                                           capture_output=True, text=True,
                                           timeout=LIMIT, check=True).stdout)
        self.assertEqual(process.wait(timeout=LIMIT), 0, self.output(run_dir))
        after = json.loads(subprocess.run([ATOLL, "status", run_dir, "--json"],
                                          capture_output=True, text=True,
                                          timeout=LIMIT, check=True).stdout)
        self.assertEqual(after["state"], "done")
        self.assertNotEqual(during["state"], "failed")
        shutil.rmtree(run_dir)


if __name__ == "__main__":
    unittest.main(verbosity=2)
