"""Power cuts while checkpoints are saved: nothing that was acknowledged is lost.

    python3 power_cuts.py POWER_CUT_SAVER [--cuts=200] [--fs=ext4,xfs] [--seed=N] [--without-sync]

1. A file system in a loop device; a process saves round after round and says which are done.
2. At some moment the file system is shut down without writing its log (FS_IOC_SHUTDOWN): what is
   in memory only is gone, as after a power cut. It is mounted again, which replays its log.
3. The newest round that was acknowledged must be there, whole to the last byte; the next save
   goes on from there.
--without-sync runs the saver with fsync made a no-op, by strace: then saves must get lost, or
these cuts cut nothing. Exit code 77: it needs root, loop devices and mkfs, and says what it lacks.
"""
import argparse
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading

FS_IOC_SHUTDOWN = 0x8004587D
WITHOUT_LOG = 2
IMAGE_BYTES = 400 << 20  # xfs takes no less than 300 MiB


class Disk:
    def __init__(self, root, kind):
        self.image, self.place = os.path.join(root, f"{kind}.img"), os.path.join(root, kind)
        os.mkdir(self.place)
        with open(self.image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run([f"mkfs.{kind}", "-q", self.image], check=True)
        self.mounted = False

    def mount(self):
        self.until_it_works(["mount", "-o", "loop", self.image, self.place])
        self.mounted = True

    def cut(self):
        handle = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(handle, FS_IOC_SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        os.close(handle)

    def unmount(self):
        if self.mounted:
            self.until_it_works(["umount", self.place])
        self.mounted = False

    @staticmethod
    def until_it_works(words):
        """A ring of a process that has ended, and a loop device, are let go a little later."""
        for _ in range(60):
            if subprocess.run(words, check=False, capture_output=True).returncode == 0:
                return
            threading.Event().wait(0.5)
        subprocess.run(words, check=True)


def save_until_cut(words, disk, looks):
    """The rounds that were acknowledged before the cut."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as saver:
        first = saver.stdout.readline()  # so that there is something to lose
        for _ in range(looks):  # some moment of the saves that follow
            os.path.exists(disk.place)
        disk.cut()
        rounds = [int(line) for line in [first, *saver.stdout] if line.strip()]
        saver.wait()
    # Lines that come after the cut are of saves that were acknowledged before it: a save can't
    # end on a disk that is gone.
    return rounds


def campaign(saver, kind, cuts, dice, tracer):
    lost = acknowledged = 0
    with tempfile.TemporaryDirectory() as root:
        disk = Disk(root, kind)
        try:
            disk.mount()
            directory, next_round = os.path.join(disk.place, "checkpoints"), 1
            for cut in range(cuts):
                looks = dice.randrange(200_000)
                rounds = save_until_cut([*tracer, saver, "save", directory, str(next_round)], disk,
                                        looks)
                disk.unmount()
                disk.mount()
                if rounds:
                    acknowledged += len(rounds)
                    check = subprocess.run([saver, "check", directory, str(rounds[-1])],
                                           check=False, capture_output=True, text=True)
                    if check.returncode != 0:
                        lost += 1
                        print(f"{kind}, cut {cut}: {check.stderr.strip()}")
                        shutil.rmtree(directory, ignore_errors=True)
                    next_round = rounds[-1] + 1
        finally:
            disk.unmount()
    print(f"{kind}: {cuts} cuts, {acknowledged} saves acknowledged, {lost} cuts lost one")
    return lost, acknowledged


def missing(kinds):
    if os.geteuid() != 0:
        return "root"
    if not os.path.exists("/dev/loop-control"):
        return "loop devices"
    for kind in kinds:
        if shutil.which(f"mkfs.{kind}") is None:
            return f"mkfs.{kind}"
    return ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("saver")
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--fs", default="ext4,xfs")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--without-sync", action="store_true")
    options = parser.parse_args()
    kinds = options.fs.split(",")
    lack = missing(kinds)
    if lack:
        print(f"power cuts can't be tried here: {lack} is missing")
        return 77
    with tempfile.TemporaryDirectory() as root:
        try:
            disk = Disk(root, kinds[0])
            subprocess.run(["mount", "-o", "loop", disk.image, disk.place], check=True)
            disk.mounted = True
            try:
                disk.cut()
            finally:
                disk.unmount()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"power cuts can't be tried here: {error}")
            return 77
    tracer = []
    if options.without_sync:
        tracer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e",
                  "inject=fsync:retval=0"]
    print(f"seed {options.seed}")
    dice = random.Random(options.seed)
    lost = acknowledged = 0
    for kind in kinds:
        one = campaign(options.saver, kind, options.cuts, dice, tracer)
        lost, acknowledged = lost + one[0], acknowledged + one[1]
    if acknowledged == 0:
        print("no save was acknowledged: nothing was tried")
        return 1
    if options.without_sync:
        return 0 if lost > 0 else 1
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
