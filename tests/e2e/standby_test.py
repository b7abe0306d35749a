"""An orchestrator with its store in a real etcd, and a standby that takes over: when the first one
is killed, and when it is cut off from etcd. Regions, orchestrators and etcd are started by hand, as
on hosts of their own: each has a run directory of its own."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import unittest

from atoll_run import LIMIT, ORCHESTRATOR, WORKER, JobTest, processes_of, wait_until

ETCD = "/usr/bin/etcd"
ROUNDS = 400
REGIONS = ("johor", "oslo")


class Proxy:
    """Forwards connections to a port, until they are cut."""

    def __init__(self, port):
        self.target = port
        self.open = True
        self.connections = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if not self.open:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self.target))
                self.connections += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=(one, other), daemon=True).start()

    @staticmethod
    def pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        source.close()

    def cut(self):
        with self.lock:
            self.open = False
            for one in self.connections:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self.connections = []

    def heal(self):
        with self.lock:
            self.open = True

    def close(self):
        self.cut()
        self.listener.close()


class StandbyTest(JobTest):

    def setUp(self):
        super().setUp()
        self.top = self.new_dir("top")
        os.makedirs(self.top)
        self.keys = os.path.join(self.top, "keys")
        self.started = []
        self.etcd_port = self.start_etcd()
        self.ports = self.free_ports(2)

    def tearDown(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        super().tearDown()

    @staticmethod
    def free_ports(count):
        """Of those that the system does not give to connections."""
        ports = []
        while len(ports) < count:
            port = random.randrange(15000, 30000)
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                ports.append(port)
        return ports

    def spawn(self, words, name):
        with open(os.path.join(self.top, name + ".log"), "w") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def log(self, name):
        with open(os.path.join(self.top, name + ".log"), errors="replace") as file:
            return file.read()

    def start_etcd(self):
        self.assertTrue(os.access(ETCD, os.X_OK), "scripts/setup installs etcd-server")
        for _ in range(10):
            port, peer = self.free_ports(2)
            data = os.path.join(self.top, "etcd")
            shutil.rmtree(data, ignore_errors=True)
            client_url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
            process = self.spawn(
                [ETCD, "--data-dir", data, "--listen-client-urls", client_url,
                 "--advertise-client-urls", client_url, "--listen-peer-urls", peer_url,
                 "--initial-advertise-peer-urls", peer_url,
                 "--initial-cluster", f"default={peer_url}"], "etcd")
            wait_until(lambda: process.poll() is not None or
                       "client requests on" in self.log("etcd"), "etcd serves")
            if process.poll() is None:
                return port
        raise AssertionError("etcd did not start: " + self.log("etcd"))

    def orchestrator(self, number, etcd_port, *more):
        """Number 0 or 1, each with its address and run directory."""
        return self.spawn(
            [ORCHESTRATOR, f"--job={self.job}", f"--regions={len(REGIONS)}",
             f"--set=train.rounds={ROUNDS}", "--set=train.evaluate_every=0",
             "--set=checkpoint.every=0", f"--keys={self.keys}",
             f"--listen=tcp://127.0.0.1:{self.ports[number]}",
             f"--run_dir={self.run_dir(number)}",
             f"--store=etcd:http://127.0.0.1:{etcd_port}", *more], f"orchestrator-{number}")

    def run_dir(self, number):
        return os.path.join(self.top, f"run-{number}")

    def start_regions(self):
        addresses = ",".join(f"tcp://127.0.0.1:{port}" for port in self.ports)
        return [self.spawn([WORKER, f"--orchestrator={addresses}", f"--region={name}",
                            f"--keys={self.keys}", f"--run_dir={self.top}/{name}",
                            "--wan_listen=127.0.0.1:0"], name) for name in REGIONS]

    def start_both(self, first_etcd_port):
        first = self.orchestrator(0, first_etcd_port)
        wait_until(lambda: "listening on" in self.log("orchestrator-0"), "the first one listens")
        standby = self.orchestrator(1, self.etcd_port, "--standby")
        wait_until(lambda: "waiting for its end" in self.log("orchestrator-1"), "a standby waits")
        regions = self.start_regions()
        self.wait_for_rounds(self.run_dir(0), 3)
        return first, standby, regions

    def assert_complete(self, standby, regions):
        for region, name in zip(regions, REGIONS):
            self.assertEqual(region.wait(timeout=LIMIT), 0, self.log(name))
        self.assertEqual(standby.wait(timeout=LIMIT), 0, self.log("orchestrator-1"))
        run_dir = self.run_dir(1)
        self.assertEqual(self.summary(run_dir)["state"], "done")
        rounds = self.rounds(run_dir)
        self.assertEqual([line["round"] for line in rounds], list(range(1, ROUNDS + 1)))
        # What the first one had committed is what the standby has, and every sample counts once.
        former = self.rounds(self.run_dir(0))
        self.assertEqual(rounds[:len(former)], former)
        with contextlib.closing(sqlite3.connect(os.path.join(run_dir, "atoll.db"))) as database:
            rows = database.execute("SELECT first, end, rest FROM samples WHERE superseded=0 AND "
                                    "state=2 AND end>first").fetchall()
        ranges = [(first, end) for first, end, _ in rows]
        for _, _, rest in rows:
            ranges += [tuple(int(number) for number in part.split("-")) for part in rest.split()]
        ranges.sort()
        self.assertEqual(ranges[0][0], 0)
        for before, after in zip(ranges, ranges[1:]):
            self.assertEqual(before[1], after[0])
        self.assertEqual(ranges[-1][1], ROUNDS * 6 * 4)

    def test_a_standby_takes_over_when_the_orchestrator_is_killed(self):
        first, standby, regions = self.start_both(self.etcd_port)
        first.send_signal(signal.SIGKILL)
        first.wait()
        wait_until(lambda: "listening on" in self.log("orchestrator-1"), "the standby leads")
        self.assert_complete(standby, regions)
        self.assertIn("orchestrator_back",
                      {event["kind"] for event in self.events(self.run_dir(1))})

    def test_one_that_is_cut_off_from_etcd_is_replaced_and_ends(self):
        proxy = Proxy(self.etcd_port)
        self.addCleanup(proxy.close)
        first, standby, regions = self.start_both(proxy.port)
        proxy.cut()
        # It must leave the regions to the other one though it cannot ask who leads.
        wait_until(lambda: "listens no more" in self.log("orchestrator-0"), "the first one closes")
        wait_until(lambda: "listening on" in self.log("orchestrator-1"), "the standby leads")
        self.assertIsNone(first.poll(), "it does not know yet")
        proxy.heal()
        self.assertEqual(first.wait(timeout=LIMIT), 6, self.log("orchestrator-0"))
        self.assertIn("another orchestrator has taken the job over", self.log("orchestrator-0"))
        self.assert_complete(standby, regions)

    def test_a_standby_of_a_job_that_ends_ends_with_it(self):
        first, standby, regions = self.start_both(self.etcd_port)
        first.send_signal(signal.SIGTERM)
        self.assertEqual(first.wait(timeout=LIMIT), 75, self.log("orchestrator-0"))
        self.assertEqual(standby.wait(timeout=LIMIT), 75, self.log("orchestrator-1"))
        self.assertIn("has ended already", self.log("orchestrator-1"))
        for region, name in zip(regions, REGIONS):
            self.assertEqual(region.wait(timeout=LIMIT), 75, self.log(name))
        self.assertEqual(self.summary(self.run_dir(1))["state"], "stopped")

    def test_train_goes_on_with_its_standby_when_the_orchestrator_is_killed(self):
        run_dir = self.new_dir("run")
        standby_dir = os.path.join(run_dir, "standby")
        etcd = f"--store=etcd:http://127.0.0.1:{self.etcd_port}"
        process = self.start(run_dir, etcd, "--standby", "--set", "train.rounds=100000", "--set",
                             "checkpoint.every=0", "--set", "train.evaluate_every=0", regions=2)
        self.wait_for_rounds(run_dir, 3)

        def waits(directory):
            with contextlib.suppress(OSError), open(os.path.join(directory,
                                                                 "orchestrator.log")) as file:
                return "waiting for its end" in file.read()
            return False
        wait_until(lambda: waits(standby_dir), "a standby waits")
        with open(os.path.join(run_dir, "orchestrator.json")) as file:
            os.kill(json.load(file)["pid"], signal.SIGKILL)
        before = len(self.rounds(run_dir))
        self.wait_for_rounds(standby_dir, before + 3)
        wait_until(lambda: waits(run_dir), "the former one is the standby's standby")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=LIMIT), 75,
                         self.output(run_dir) + self.logs(run_dir))
        self.assert_nothing_left(run_dir)
        self.assertIn("its standby takes over", self.output(run_dir))
        rounds = self.rounds(standby_dir)
        self.assertEqual([line["round"] for line in rounds], list(range(1, len(rounds) + 1)))
        former = self.rounds(run_dir)
        self.assertEqual(rounds[:before], former[:before])
        self.assertEqual(self.summary(standby_dir)["state"], "stopped")

    def test_what_cannot_be_is_said_at_once(self):
        def refused(code, words, *more):
            done = subprocess.run(
                [ORCHESTRATOR, f"--job={self.job}", f"--keys={self.keys}",
                 f"--run_dir={self.top}/refused", *more],
                capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(words, done.stderr)

        etcd = f"--store=etcd:http://127.0.0.1:{self.etcd_port}"
        refused(2, "--standby needs a store", "--standby")
        refused(2, "neither sqlite:PATH nor etcd:ENDPOINTS", "--store=redis:x")
        refused(2, "HOST:PORT", "--store=etcd:nowhere")
        refused(2, "--store_ca needs", "--store_ca=x")
        refused(2, "no orchestrator.key", etcd, "--standby")
        for words, more in (("--standby needs a store", ["--standby"]),
                            ("--resume=never leaves what etcd", [etcd, "--resume=never"])):
            self.assertIn(words, self.train(self.new_dir("refused"), *more, expect=2).stderr)
        self.assertEqual(processes_of(self.top + "/refused"), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
