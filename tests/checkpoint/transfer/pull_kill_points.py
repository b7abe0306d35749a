"""Kills, full disks and failing disks at single system calls of `atoll checkpoint pull`.

    python3 pull_kill_points.py ATOLL CHECKPOINT_SAMPLE [--all | --part=K/N]

As kill_points.py, from where the folder of the pull is made: afterwards there is no checkpoint, or
a whole one; and one more undisturbed pull ends with it and leaves nothing else behind.
Exit code 77: processes can't be traced here.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import at_call  # noqa: E402
import kill_points  # noqa: E402
from kill_points import contents  # noqa: E402

NAME = "round-000042"


class Scene:
    name, begin = "pull", ".pull"

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
        self.line = [atoll, "checkpoint", "pull", address, self.work, "--key", key]

    def prepare(self):
        shutil.rmtree(self.work, ignore_errors=True)

    def words(self):
        return self.line

    def check(self):
        if os.path.isdir(self.work):
            for name in os.listdir(self.work):
                assert not name.startswith("round-") or name == NAME, name
        path = os.path.join(self.work, NAME)
        assert not os.path.exists(path) or contents(path) == self.whole, "half a checkpoint"

    def check_done(self):
        assert contents(os.path.join(self.work, NAME)) == self.whole, "not pulled"

    def check_end(self):
        self.check_done()
        assert sorted(os.listdir(self.work)) == [".lock", NAME], os.listdir(self.work)

    def close(self):
        self.server.terminate()
        self.server.wait()


def main():
    atoll, sample, *how = sys.argv[1:]
    with tempfile.TemporaryDirectory() as root:
        scene = Scene(atoll, sample, root)
        try:
            return 1 if kill_points.try_places(scene, 5, how) else 0
        except at_call.Unavailable as why:
            print(why)
            return 77
        finally:
            scene.close()


if __name__ == "__main__":
    sys.exit(main())
