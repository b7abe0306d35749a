"""Kills, full disks and failing disks at single system calls of a save and of `atoll checkpoint
repair|prune`.

    python3 kill_points.py ATOLL CHECKPOINT_SAMPLE [--all | --part=K/N]
                           [--only=save,save again,repair,prune]

1. The program runs once, and its system calls that change files are listed, from when it takes the
   lock, those of all threads together (at_call.py).
2. It runs again for each of them (--all), for the K-th of every N (--part), or for some: it is
   killed there, or the call fails with ENOSPC (and what needs space from there on) or EIO.
3. Afterwards the newest checkpoint must be to the byte what it was or what it was to become, what
   it was to become if the program said so, and one more undisturbed run must end as if nothing had
   happened.
Exit code 77: processes can't be traced here (it says why).
"""
import os
import shutil
import subprocess
import sys
import tempfile

import at_call

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
    begin = "/.lock"

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

    def check_done(self):
        """The program said that it did it."""
        assert contents(self.newest) == self.whole, "it ended well, and the new one is not there"


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


def places_of(calls):
    """[(fault, its call's number, its name)]. A call that only opens changes nothing: a kill there
    is one at the next."""
    numbered = list(enumerate(calls, 1))
    return ([("kill", *one) for one in numbered if one[1] != "openat"] +
            [("ENOSPC", *one) for one in numbered if one[1] in at_call.NEEDS_SPACE] +
            [("EIO", *one) for one in numbered])


def disturb(scene, fault, number, name):
    """(1 if something is wrong, 1 if there was no such call this time)."""
    scene.prepare()
    try:
        seen = at_call.run(scene.words(), scene.begin, number, fault)
        scene.check()
        if seen["code"] == 0:
            scene.check_done()
        again = subprocess.run(scene.words(), check=False, capture_output=True, text=True,
                               timeout=300)
        assert again.returncode == 0, again.stderr
        scene.check_end()
    except (AssertionError, subprocess.TimeoutExpired) as error:
        print(f"{scene.name}: {fault} at {name}, call {number}: {error}", flush=True)
        return 1, 0
    return 0, 0 if seen["reached"] else 1


def try_places(scene, some, words):
    """About `some` of the places, or what `words` (--all, --part=K/N) says. Failures."""
    scene.prepare()
    seen = at_call.run(scene.words(), scene.begin)
    assert seen["code"] == 0, f"{scene.name} ends with {seen['code']} where nothing disturbs it"
    scene.check_end()
    places = places_of(seen["calls"])
    step = max(1, len(places) // some)
    tried = places[step // 2::step]
    for word in words:
        if word == "--all":
            tried = places
        elif word.startswith("--part="):
            part, parts = map(int, word.removeprefix("--part=").split("/"))
            tried = places[part - 1::parts]
    failures = missed = 0
    for place in tried:
        failed, absent = disturb(scene, *place)
        failures, missed = failures + failed, missed + absent
    print(f"{scene.name}: {len(seen['calls'])} calls, {len(places)} places, {len(tried)} tried, "
          f"{missed} beyond the program's end, {failures} failures", flush=True)
    return failures


def main():
    atoll, sample, *words = sys.argv[1:]
    only = [word.removeprefix("--only=") for word in words if word.startswith("--only=")]
    failures = 0
    with tempfile.TemporaryDirectory() as root:
        for kind in (Save, SaveAgain, Repair, Prune):
            if only and kind.name not in only[0].split(","):
                continue
            folder = os.path.join(root, kind.name.replace(" ", "-"))
            os.mkdir(folder)
            try:
                failures += try_places(kind(atoll, sample, folder), 8, words)
            except at_call.Unavailable as why:
                print(why)
                return 77
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
