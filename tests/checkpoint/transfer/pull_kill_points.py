"""Kills, full disks and failing disks at single system calls of `atoll checkpoint pull`.

    python3 pull_kill_points.py ATOLL CHECKPOINT_SAMPLE [--all | --one_in=N]

1. A pull runs once under strace, which lists its calls that change files, by thread.
2. It runs again for each of them (--all), or for a few: strace kills it there, or lets the call
   fail with ENOSPC (from there on) or EIO. (Not write: no file is written with it, eventfds are.)
3. Afterwards there is no checkpoint, or a whole one; and one more undisturbed pull ends with it and
   leaves nothing else behind.
Exit code 77: strace can't trace here.
"""
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

CHANGES = {"openat", "pwrite64", "fsync", "fallocate", "ftruncate", "mkdir", "rename",
           "renameat2", "unlink", "unlinkat"}
NEEDS_SPACE = {"openat", "pwrite64", "fsync", "fallocate", "ftruncate", "mkdir"}
NAME = "round-000042"


def contents(directory):
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = file.read()
    return found


class Scene:
    def __init__(self, atoll, sample, root):
        self.good, self.work = os.path.join(root, "good"), os.path.join(root, "work")
        subprocess.run([sample, self.good, "42"], check=True)
        self.whole = contents(os.path.join(self.good, NAME))
        self.server = subprocess.Popen(
            [atoll, "checkpoint", "serve", self.good, "--listen=127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        answer = ""
        while not answer.endswith("\n}\n"):
            answer += self.server.stdout.readline() or sys.exit("serve has ended")
        address = json.loads(answer)["listens"]
        key = os.path.join(self.good, ".transfer-key")
        self.words = [atoll, "checkpoint", "pull", address, self.work, "--key", key]

    def check(self):
        if os.path.isdir(self.work):
            for name in os.listdir(self.work):
                assert not name.startswith("round-") or name == NAME, name
        path = os.path.join(self.work, NAME)
        assert not os.path.exists(path) or contents(path) == self.whole, "half a checkpoint"

    def check_end(self):
        assert contents(os.path.join(self.work, NAME)) == self.whole, "not pulled"
        assert sorted(os.listdir(self.work)) == [".lock", NAME], os.listdir(self.work)

    def close(self):
        self.server.terminate()
        self.server.wait()


def traced_calls(scene, trace):
    """Most calls of one thread by name, from the folder on; None if strace does not work here."""
    done = subprocess.run(["strace", "-f", "-o", trace, *scene.words], check=False,
                          capture_output=True, text=True)
    if done.returncode != 0:
        print(f"strace can't trace here: {done.stderr.strip()[-500:]}")
        return None
    scene.check_end()
    counts, first, last, begun = collections.Counter(), {}, {}, False
    with open(trace, encoding="utf-8", errors="replace") as file:
        for line in file:
            match = re.match(r"(\d+) +(\w+)\(", line)
            if not match or match[2] not in CHANGES:
                continue
            counts[match[1], match[2]] += 1
            begun = begun or ".pull" in line
            if begun:
                first.setdefault(match[2], counts[match[1], match[2]])
                last[match[2]] = max(last.get(match[2], 0), counts[match[1], match[2]])
    return [(name, number) for name in sorted(first)
            for number in range(min(first[name], last[name]), last[name] + 1)]


def disturb(scene, fault, call, number):
    shutil.rmtree(scene.work, ignore_errors=True)
    subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                    f"inject={call}:{fault}:when={number}", *scene.words],
                   check=False, capture_output=True, timeout=150)
    try:
        scene.check()
        again = subprocess.run(scene.words, check=False, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr[-1000:]
        scene.check_end()
    except AssertionError as error:
        print(f"pull: {fault} at {call} number {number}: {error}")
        return 1
    return 0


def main():
    atoll, sample = sys.argv[1:3]
    how = sys.argv[3] if len(sys.argv) > 3 else ""
    if shutil.which("strace") is None:
        print("strace is not installed; scripts/setup installs it")
        return 77
    failures = runs = 0
    with tempfile.TemporaryDirectory() as root:
        scene = Scene(atoll, sample, root)
        try:
            calls = traced_calls(scene, os.path.join(root, "trace"))
            if calls is None:
                return 77
            places = [("signal=SIGKILL", *call) for call in calls]
            places += [("error=ENOSPC", name, f"{number}+") for name, number in calls
                       if name in NEEDS_SPACE]
            places += [("error=EIO", *call) for call in calls]
            step = max(1, len(places) // 5)
            if how:
                step = 1 if how == "--all" else int(how.removeprefix("--one_in="))
            for place in places[step // 2::step]:
                failures += disturb(scene, *place)
                runs += 1
        finally:
            scene.close()
    print(f"pull: {len(places)} places, {runs} tried, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
