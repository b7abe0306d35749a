#!/usr/bin/env python3
"""All-reduces of Open MPI and gloo, to put beside `atoll bench allreduce`: one JSON object.

    bench/rivals/rivals.py --lab configs/lab/two-500mbit-80ms.yaml --bytes 64MiB --iterations 5
    bench/rivals/rivals.py --local 2 --bytes 256MiB

1. With --lab it starts itself again under `wanlab run`, which takes the lab down however this ends.
   With --local N the ranks are on this host, over loopback.
2. Each rival runs on its own: a rank a region, fp32, no encryption, the kernel's own limits. One
   all-reduce before the first counts for nothing. An iteration takes as long as its slowest rank.
3. A rival that gives no answer in --timeout seconds is stopped, and has an "error".
The programs come from --build (ninja rivals wanlab)."""

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
RIVALS = ["openmpi", "openmpi-4-links", "gloo-ring_chunked", "gloo-halving_doubling"]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--lab", help="lab file")
    where.add_argument("--local", type=int, metavar="N", help="N ranks on this host, loopback")
    parser.add_argument("--bytes", default="64MiB")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--idle", type=float, default=0, help="seconds before each iteration")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each rival")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="some of: " + ", ".join(RIVALS))
    parser.add_argument("--build", default=os.path.join(HERE, "..", "..", "build"))
    arguments = parser.parse_args()
    unknown = set(arguments.rivals.split(",")) - set(RIVALS)
    if unknown:
        parser.error(f"unknown rivals {sorted(unknown)}; there are: {RIVALS}")
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
        sys.exit(f"rivals.py: {path} is not there; ninja rivals wanlab")
    return path


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


def measure(rival, arguments, places, scratch):
    processes = []
    try:
        if rival.startswith("openmpi"):
            links = 4 if rival.endswith("4-links") else 1
            processes = run_openmpi(arguments, places, scratch, links)
        else:
            processes = run_gloo(arguments, places, scratch, rival[len("gloo-"):])
        out, error = processes[0].communicate(timeout=arguments.timeout)
    except subprocess.TimeoutExpired:
        return {"rival": rival, "error": f"no answer within {arguments.timeout:g} s"}
    finally:
        stop(processes)
    if processes[0].returncode != 0:
        return {"rival": rival, "error": error.strip()[-500:] or "no words"}
    answer = json.loads(out)
    seconds = answer.pop("seconds")
    return {"rival": rival, "seconds_median": statistics.median(seconds),
            "seconds_min": min(seconds), "seconds_max": max(seconds),
            "cpu_seconds": answer["cpu_seconds"], "wrong": answer["wrong"]}


def main():
    arguments = parse_arguments()
    if arguments.lab and "ATOLL_LAB" not in os.environ:
        wanlab = program(arguments, "wanlab")
        os.execv(wanlab, [wanlab, "run", arguments.lab, "--", sys.executable, *sys.argv])
    scratch = tempfile.mkdtemp(prefix="rivals-")
    try:
        places = places_of(arguments)
        results = [measure(rival, arguments, places, scratch)
                   for rival in arguments.rivals.split(",")]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({"lab": arguments.lab, "ranks": len(places), "bytes": arguments.bytes,
                      "iterations": arguments.iterations, "idle_seconds": arguments.idle,
                      "rivals": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
