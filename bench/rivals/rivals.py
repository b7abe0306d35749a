#!/usr/bin/env python3
"""`atoll bench allreduce` and the all-reduces of Open MPI and gloo side by side, in one run.

    bench/rivals/rivals.py --lab configs/lab/two-500mbit-80ms.yaml --bytes 64MiB
    bench/rivals/rivals.py --local 2 --bytes 256MiB --json

1. With --lab it starts itself again under `wanlab run`, which takes the lab down however this ends:
   all contenders run in that one lab. With --local N the ranks are on this host, over loopback.
2. In each of --rounds rounds every contender has a turn of --iterations all-reduces, fp32, a rank a
   region; each round begins with another one. Before what is measured atoll has --warmup
   all-reduces, from which it learns the links, a rival one, which opens its connections. An
   iteration takes as long as its slowest rank.
3. The rivals do not encrypt. In a lab atoll does, unless --plain; on loopback it does not.
4. A rival that gives no answer to a turn in --timeout seconds is stopped and has no more turns: an
   all-reduce of its takes "more than" that time shared among the turn's.
5. Printed are medians and spread over all rounds, CPU seconds a GB of all ranks together (in a lab
   without the relay), and how many times atoll's median a rival's is.
The programs come from --build (ninja atoll rivals wanlab)."""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = "atoll"
RIVALS = ["openmpi", "openmpi-4-links", "gloo-ring_chunked", "gloo-halving_doubling"]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--lab", help="lab file")
    where.add_argument("--local", type=int, metavar="N", help="N ranks on this host, loopback")
    parser.add_argument("--bytes", default="64MiB")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=3, help="all-reduces of a turn")
    parser.add_argument("--warmup", type=int, default=3, help="atoll's before those")
    parser.add_argument("--idle", type=float, default=0, help="seconds before each iteration")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each turn")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="some of: " + ", ".join(RIVALS))
    parser.add_argument("--congestion_control", metavar="NAME",
                        help="of connections in the lab that ask for none (atoll's do ask); else "
                        "this host's. Linux's own is cubic")
    parser.add_argument("--plain", action="store_true", help="atoll does not encrypt either")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--build", default=os.path.join(HERE, "..", "..", "build"))
    arguments = parser.parse_args()
    arguments.rivals = [name for name in arguments.rivals.split(",") if name]
    unknown = set(arguments.rivals) - set(RIVALS)
    if unknown:
        parser.error(f"unknown rivals {sorted(unknown)}; there are: {RIVALS}")
    if min(arguments.rounds, arguments.iterations) < 1:
        parser.error("--rounds and --iterations: 1 at least")
    if arguments.congestion_control and not arguments.lab:
        parser.error("--congestion_control is of labs")
    arguments.plain = arguments.plain or bool(arguments.local)
    return arguments


class Place:
    """Where a rank runs: a region of the lab, or this host."""

    def __init__(self, wanlab, name, address):
        self.name = name
        self.address = address
        self.prefix = [wanlab, "exec", name, "--"] if wanlab else []


def places_of(arguments):
    if arguments.local:
        return [Place(None, "host", "127.0.0.1") for _ in range(arguments.local)]
    wanlab = program(arguments, "wanlab")
    answer = subprocess.run([wanlab, "addresses", "--json"], capture_output=True, text=True,
                            check=True)
    return [Place(wanlab, region["name"], region["address"])
            for region in json.loads(answer.stdout)["regions"]]


def program(arguments, name):
    path = os.path.abspath(os.path.join(arguments.build, "bin", name))
    if not os.access(path, os.X_OK):
        sys.exit(f"rivals.py: {path} is not there; ninja atoll rivals wanlab")
    return path


def congestion_control(arguments, places):
    """Sets it where that is asked for; says what it is."""
    path = "/proc/sys/net/ipv4/tcp_congestion_control"
    if arguments.lab and arguments.congestion_control:
        for place in places:
            done = subprocess.run([*place.prefix, "sh", "-c", 'echo "$0" > "$1"',
                                   arguments.congestion_control, path], check=False)
            if done.returncode != 0:
                sys.exit(f"rivals.py: a namespace may not have {arguments.congestion_control}; "
                         "is it in net.ipv4.tcp_allowed_congestion_control?")
    answer = subprocess.run([*places[0].prefix, "cat", path], capture_output=True, text=True,
                            check=True)
    return answer.stdout.strip()


def run_settings(arguments):
    return [f"--bytes={arguments.bytes}", f"--iterations={arguments.iterations}",
            f"--idle={arguments.idle}"]


def openmpi_words(arguments, places, scratch, links):
    words = [shutil.which("mpirun") or "mpirun", "-np", str(len(places)), "--bind-to", "none",
             "--oversubscribe", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_links", str(links)]
    rival = [program(arguments, "atoll-rival-mpi"), *run_settings(arguments)]
    if arguments.local:
        return [*words, "--mca", "btl_tcp_if_include", "lo", *rival]
    # mpirun starts its daemons by "AGENT ADDRESS COMMAND": ours enters the region of that address.
    # A host name of its own keeps the daemons from taking each other for one.
    agent = os.path.join(scratch, "agent")
    with open(agent, "w") as file:
        file.write("#!/bin/sh\nhost=$1; shift\ncase $host in\n")
        for place in places:
            enter = " ".join(place.prefix)
            file.write(f'  {place.address}) exec unshare --uts sh -c \'hostname "$1"; shift; '
                       f'exec {enter} sh -c "$*"\' sh {place.name} "$@" ;;\n')
        file.write('esac\necho "no region has the address $host" >&2; exit 1\n')
    os.chmod(agent, 0o755)
    hosts = ",".join(f"{place.address}:1" for place in places)
    return ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', places[0].name,
            *places[0].prefix, *words, "--host", hosts, "--mca", "plm", "rsh",
            "--mca", "plm_rsh_agent", agent, "--mca", "plm_rsh_no_tree_spawn", "1",
            "--mca", "btl_tcp_if_include", "wan0", "--mca", "oob_tcp_if_include", "wan0", *rival]


def run_openmpi(arguments, places, scratch, links):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       TMPDIR=scratch)
    return [subprocess.Popen(openmpi_words(arguments, places, scratch, links), env=environment,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             stdin=subprocess.DEVNULL, start_new_session=True)]


def run_gloo(arguments, places, scratch, algorithm):
    store = os.path.join(scratch, "store-" + algorithm)
    os.mkdir(store)
    rival = program(arguments, "atoll-rival-gloo")
    return [subprocess.Popen([*place.prefix, rival, f"--rank={rank}", f"--size={len(places)}",
                              f"--address={place.address}", f"--store={store}",
                              f"--algorithm={algorithm}", *run_settings(arguments)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             stdin=subprocess.DEVNULL, start_new_session=True)
            for rank, place in enumerate(places)]


def stop(processes):
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def atoll_words(arguments):
    words = [program(arguments, "atoll"), "bench", "allreduce", "--json", "--bytes",
             arguments.bytes, "--iterations", str(arguments.iterations), "--warmup",
             str(arguments.warmup), "--idle", f"{arguments.idle:g}s"]
    if arguments.lab:
        words += ["--lab", arguments.lab, "--lab_name", os.environ["ATOLL_LAB"]]
    else:
        words += ["--ranks", str(arguments.local)]
    return [*words, "--plain"] if arguments.plain else words


def run_atoll(arguments):
    return [subprocess.Popen(atoll_words(arguments), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
                             start_new_session=True)]


def start(name, arguments, places, scratch):
    if name == OURS:
        return run_atoll(arguments)
    if name.startswith("openmpi"):
        return run_openmpi(arguments, places, scratch, 4 if name.endswith("4-links") else 1)
    return run_gloo(arguments, places, scratch, name[len("gloo-"):])


class Contender:
    """What one of them has shown so far."""

    def __init__(self, name):
        self.name = name
        self.seconds = []
        self.cpu_seconds = []  # a GB, by turn
        self.wrong = 0
        self.error = None
        self.more_than = None  # seconds

    def take_turn(self, arguments, places):
        scratch = tempfile.mkdtemp(prefix="rivals-")
        processes = []
        try:
            processes = start(self.name, arguments, places, scratch)
            out, error = processes[0].communicate(timeout=arguments.timeout)
        except subprocess.TimeoutExpired:
            before = arguments.warmup if self.name == OURS else 1
            self.more_than = arguments.timeout / (before + arguments.iterations)
            self.error = f"no answer within {arguments.timeout:g} s"
            return
        finally:
            stop(processes)
            shutil.rmtree(scratch, ignore_errors=True)
        try:
            answer = json.loads(out)
        except ValueError:
            self.error = error.strip()[-500:] or f"ended with {processes[0].returncode}, no words"
            return
        self.seconds += answer["seconds"]
        self.cpu_seconds.append(answer["cpu_seconds"] / answer["bytes"] * 1e9)
        self.wrong += answer["wrong"]
        if self.wrong:
            self.error = f"{self.wrong} wrong numbers"

    def summary(self, ours):
        answer = {"name": self.name, "wrong": self.wrong}
        if self.error:
            answer["error"] = self.error
        if self.seconds:
            median = statistics.median(self.seconds)
            answer.update(seconds_median=median, seconds_min=min(self.seconds),
                          seconds_max=max(self.seconds),
                          cpu_seconds_per_gb=statistics.median(self.cpu_seconds))
        elif self.more_than is not None:
            answer["seconds_more_than"] = median = self.more_than
        else:
            return answer
        if ours and self.name != OURS:
            answer["times_atoll"] = median / ours
        return answer


def print_table(result):
    line = "{:<22} {:>10} {:>17} {:>11} {:>9}".format
    print(f"# {result['place']}, {result['ranks']} ranks, {result['bytes']}, fp32; atoll "
          f"{'encrypts' if result['atoll_encrypts'] else 'does not encrypt'}, rivals do not "
          f"and get {result['congestion_control']}")
    print(line("# all-reduce", "median (s)", "min - max (s)", "CPU s/GB", "x atoll"))
    for one in result["contenders"]:
        more = ">" if "seconds_more_than" in one else ""
        median = one.get("seconds_median", one.get("seconds_more_than"))
        times = one.get("times_atoll")
        spread = (f"{one['seconds_min']:.3f} - {one['seconds_max']:.3f}"
                  if "seconds_min" in one else "-")
        print(line(one["name"], f"{more}{median:.3f}" if median else "-", spread,
                   f"{one['cpu_seconds_per_gb']:.2f}" if "cpu_seconds_per_gb" in one else "-",
                   f"{more}{times:.2f}" if times else "-"), one.get("error", ""))
    if result["least_times_atoll"] is not None:
        print(f"# the quickest rival takes {result['least_times_atoll']:.2f} times atoll's time")


def main():
    arguments = parse_arguments()
    if arguments.lab and "ATOLL_LAB" not in os.environ:
        wanlab = program(arguments, "wanlab")
        os.execv(wanlab, [wanlab, "run", arguments.lab, "--", sys.executable, *sys.argv])
    places = places_of(arguments)
    congestion = congestion_control(arguments, places)
    contenders = [Contender(name) for name in [OURS, *arguments.rivals]]
    for turn in range(arguments.rounds):
        for i in range(len(contenders)):
            contender = contenders[(turn + i) % len(contenders)]
            if not contender.error:
                contender.take_turn(arguments, places)
    ours = statistics.median(contenders[0].seconds) if contenders[0].seconds else None
    summaries = [contender.summary(ours) for contender in contenders]
    times = [one["times_atoll"] for one in summaries if "times_atoll" in one]
    result = {"place": arguments.lab or "loopback", "ranks": len(places),
              "bytes": arguments.bytes, "rounds": arguments.rounds,
              "iterations": arguments.iterations, "warmup": arguments.warmup,
              "idle_seconds": arguments.idle, "atoll_encrypts": not arguments.plain,
              "congestion_control": congestion,
              "contenders": summaries, "least_times_atoll": min(times) if times else None}
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_table(result)
    return 1 if contenders[0].error else 0


if __name__ == "__main__":
    sys.exit(main())
