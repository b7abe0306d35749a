"""Kills, full disks and failing disks at single system calls of a save and of `atoll checkpoint
repair|prune`.

    python3 kill_points.py ATOLL CHECKPOINT_SAMPLE [--all] [--only=save,save again,repair,prune]

1. The program runs once under strace, which lists its system calls from when it takes the lock.
2. It runs again for each of them (--all), or for some of each kind: strace kills it there, or lets
   the call fail with ENOSPC (from there on) or EIO, where it is one that changes files.
3. Afterwards the newest checkpoint must be to the byte what it was or what it was to become, and
   one more undisturbed run must end as if nothing had happened.
Exit code 77: strace can't trace here (it says why).
"""
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile

CHANGES = {"openat", "pwrite64", "write", "fsync", "fallocate", "ftruncate", "mkdir", "mkdirat",
           "link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
           "copy_file_range", "sendfile", "fchmod", "io_uring_enter"}
NEEDS_SPACE = CHANGES - {"io_uring_enter", "rename", "renameat", "renameat2", "unlink", "unlinkat",
                         "rmdir", "fchmod"}


def contents(directory):
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = file.read()
    return found


class Scene:
    """A directory with rounds 40 to 42 in `good`, and `work`, a copy that a verb changes."""

    def __init__(self, atoll, sample, root):
        self.good, self.work = os.path.join(root, "good"), os.path.join(root, "work")
        for number in ("40", "41", "42"):
            subprocess.run([sample, self.good, number], check=True)
        self.newest = os.path.join(self.work, "round-000042")
        self.atoll, self.sample = atoll, sample
        self.whole = contents(os.path.join(self.good, "round-000042"))

    def start_over(self):
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.good, self.work)


class Repair(Scene):
    name = "repair"

    def prepare(self):
        self.start_over()
        os.remove(os.path.join(self.newest, "model-00002-of-00003.safetensors"))
        os.truncate(os.path.join(self.newest, "outer", "momentum-00001-of-00003.safetensors"), 4200)
        os.remove(os.path.join(self.newest, "chunks", "model-00001-of-00003.safetensors.b32"))
        self.before = contents(self.newest)

    def words(self):
        return [self.atoll, "checkpoint", "repair", self.newest, "--from", self.good]

    def check(self):
        left = contents(self.newest)
        assert left in (self.before, self.whole), "neither the old nor the new one is whole"

    def check_end(self):
        assert contents(self.newest) == self.whole, "not repaired"
        assert sorted(os.listdir(self.work)) == [
            ".lock", "round-000040", "round-000041", "round-000042"], os.listdir(self.work)


class Prune(Scene):
    name = "prune"

    def prepare(self):
        self.start_over()

    def words(self):
        return [self.atoll, "checkpoint", "prune", self.work, "--keep=1"]

    def check(self):
        assert contents(self.newest) == self.whole, "the one to keep is damaged"
        for name in os.listdir(self.work):
            if name.startswith("round-"):
                good = contents(os.path.join(self.good, name))
                assert contents(os.path.join(self.work, name)) == good, f"{name} is half gone"

    def check_end(self):
        assert sorted(os.listdir(self.work)) == [".lock", "round-000042"], os.listdir(self.work)


class Save(Scene):
    """The next round, by three ranks."""
    name = "save"

    def prepare(self):
        self.start_over()
        shutil.rmtree(self.newest)

    def words(self):
        return [self.sample, self.work, "42"]

    def check(self):
        for name in ("round-000040", "round-000041", "round-000042"):
            path = os.path.join(self.work, name)
            if name != "round-000042" or os.path.exists(path):
                assert contents(path) == contents(os.path.join(self.good, name)), f"{name} is torn"

    def check_end(self):
        self.check()
        assert sorted(os.listdir(self.work)) == [
            ".lock", "round-000040", "round-000041", "round-000042"], os.listdir(self.work)


class SaveAgain(Save):
    """The same round, which another one takes the place of."""
    name = "save again"

    def prepare(self):
        self.start_over()
        shutil.rmtree(self.newest)
        if not hasattr(self, "other"):
            subprocess.run([self.sample, self.work, "42", "elsewhere"], check=True)
            self.other = os.path.join(os.path.dirname(self.work), "other")
            shutil.copytree(self.newest, self.other)
            self.before = contents(self.other)
        else:
            shutil.copytree(self.other, self.newest)

    def check(self):
        place = self.newest
        if not os.path.exists(place):  # moved aside for a moment
            place = os.path.join(self.work, ".round-000042.replaced")
        assert contents(place) in (self.before, self.whole), "neither the old nor the new is whole"

    def check_end(self):
        super().check_end()
        assert contents(self.newest) == self.whole, "not saved"


def traced_calls(scene, trace):
    """[(name, its how-manyth call)] from the lock on; None if strace does not work here."""
    scene.prepare()
    done = subprocess.run(["strace", "-f", "-o", trace, *scene.words()], check=False,
                          capture_output=True, text=True)
    if done.returncode != 0:
        print(f"strace can't trace here: {done.stderr.strip()}")
        return None
    scene.check_end()
    counts, calls, locked = collections.Counter(), [], False
    with open(trace, encoding="utf-8", errors="replace") as file:
        for line in file:
            match = re.match(r"(?:\d+ +)?(\w+)\(", line)
            if not match:
                continue
            counts[match[1]] += 1
            locked = locked or "/.lock" in line
            if locked:
                calls.append((match[1], counts[match[1]]))
    return calls


def disturb(scene, fault, call, number):
    scene.prepare()
    subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                    f"inject={call}:{fault}:when={number}", *scene.words()],
                   check=False, capture_output=True, timeout=300)
    try:
        scene.check()
        again = subprocess.run(scene.words(), check=False, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        scene.check_end()
    except AssertionError as error:
        print(f"{scene.name}: {fault} at {call} number {number}: {error}")
        return 1
    return 0


def main():
    atoll, sample = sys.argv[1:3]
    every = "--all" in sys.argv[3:]
    only = [word.removeprefix("--only=") for word in sys.argv[3:] if word.startswith("--only=")]
    if shutil.which("strace") is None:
        print("strace is not installed; scripts/setup installs it")
        return 77
    failures = runs = 0
    with tempfile.TemporaryDirectory() as root:
        for kind in (Save, SaveAgain, Repair, Prune):
            if only and kind.name not in only[0].split(","):
                continue
            folder = os.path.join(root, kind.name.replace(" ", "-"))
            os.mkdir(folder)
            scene = kind(atoll, sample, folder)
            calls = traced_calls(scene, os.path.join(root, "trace"))
            if calls is None:
                return 77
            places = [("signal=SIGKILL", *call) for call in calls if call[0] != "exit_group"]
            places += [("error=ENOSPC", name, f"{number}+") for name, number in calls
                       if name in NEEDS_SPACE]
            places += [("error=EIO", *call) for call in calls if call[0] in CHANGES]
            # Which ones differs from run to run of the program only if its calls do.
            step = 1 if every else max(1, len(places) // 8)
            for place in places[::step]:
                failures += disturb(scene, *place)
                runs += 1
            print(f"{kind.name}: {len(places)} places, one of {step} tried")
    print(f"{runs} runs, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
