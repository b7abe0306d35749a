"""Runs a program and kills it, or lets a call of it fail, at the N-th of its system calls.

    at_call.run(words, begin="/.lock")                        what is called, in order
    at_call.run(words, begin="/.lock", at=7, fault="kill")
    at_call.run(words, begin="/.lock", at=7, fault="EIO")     this one fails
    at_call.run(words, begin="/.lock", at=7, fault="ENOSPC")  and all from there on that need space

Only calls that change files count, of all threads together, from the first openat on whose path
holds `begin`. (strace counts each thread's on their own: a number that one thread passes first can
never be another's.)

1. run() starts this file as a program of its own, so that no other child is waited for.
2. That one starts `words` under ptrace and stops at the start and the end of each call of each
   thread. A call that is to fail becomes none (number -1), and its result an error.
3. It writes what it saw as one line of JSON.
Threads of the program run at will, so that the N-th call may be another one the next time: who
tries every N has tried every moment all the same. x86-64 only; Unavailable says what is missing.
"""
import ctypes
import errno
import json
import os
import platform
import signal
import subprocess
import sys

CALLS = {1: "write", 18: "pwrite64", 40: "sendfile", 74: "fsync", 75: "fdatasync",
         77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink",
         91: "fchmod", 257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat",
         265: "linkat", 285: "fallocate", 316: "renameat2", 326: "copy_file_range",
         426: "io_uring_enter"}
NEEDS_SPACE = {"write", "pwrite64", "sendfile", "fsync", "fdatasync", "ftruncate", "mkdir", "link",
               "openat to make", "mkdirat", "linkat", "fallocate", "copy_file_range"}

TRACEME, POKEUSER, KILL_AT_EXIT, SETOPTIONS, SYSCALL = 0, 6, 0x100000, 0x4200, 24
GET_SYSCALL_INFO, ENTRY = 0x420E, 1
SYSGOOD, FOLLOW = 1, 2 | 4 | 8  # fork, vfork, clone
RAX, ORIG_RAX = 80, 120
WALL = 0x40000000


class Unavailable(Exception):
    pass


class SyscallInfo(ctypes.Structure):
    _fields_ = [("op", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32),
                ("place", ctypes.c_uint64), ("stack", ctypes.c_uint64),
                ("number", ctypes.c_uint64), ("words", ctypes.c_uint64 * 6),
                ("more", ctypes.c_uint64 * 2)]


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long


def ptrace(request, pid, place=None, data=None):
    """False if the thread is gone."""
    if LIBC.ptrace(request, pid, place, data) >= 0:
        return True
    if ctypes.get_errno() == errno.ESRCH:
        return False
    raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


def text_at(pid, place):
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(place)
            return memory.read(512).split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


def is_file(pid, descriptor):
    """Not an event, a pipe or a socket: what is written there is no file's."""
    try:
        path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return False
    return path.startswith("/") and not path.startswith("/dev/")


class Tracer:
    def __init__(self, begin, at, fault):
        self.begin, self.at, self.fault = begin, at, fault
        self.begun, self.calls, self.reached = False, [], False
        self.failing = set()  # threads whose call is to fail

    def start(self, words):
        self.root = os.fork()
        if self.root == 0:
            try:
                if LIBC.ptrace(TRACEME, 0, None, None) == 0:
                    os.kill(os.getpid(), signal.SIGSTOP)
                    os.execvp(words[0], words)
            finally:
                os._exit(127)
        os.waitpid(self.root, WALL)
        if not ptrace(SETOPTIONS, self.root, None, SYSGOOD | FOLLOW | KILL_AT_EXIT):
            raise OSError(errno.EPERM, "PTRACE_TRACEME")
        ptrace(SYSCALL, self.root)

    def follow(self):
        """Until all have ended; the exit code, or minus the signal, of the first process."""
        code = None
        while True:
            try:
                pid, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                return code
            if not os.WIFSTOPPED(status):
                code = os.waitstatus_to_exitcode(status) if pid == self.root else code
                continue
            stop, passed_on = os.WSTOPSIG(status), 0
            if stop == signal.SIGTRAP | 0x80:
                self.on_call(pid)
            elif stop not in (signal.SIGTRAP, signal.SIGSTOP):
                passed_on = stop
            ptrace(SYSCALL, pid, None, passed_on)

    def on_call(self, pid):
        info = SyscallInfo()
        if not ptrace(GET_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.addressof(info)):
            return
        if info.op != ENTRY:
            if pid in self.failing:
                self.failing.remove(pid)
                ptrace(POKEUSER, pid, RAX, -getattr(errno, self.fault))
            return
        name = CALLS.get(info.number)
        if name is None:
            return
        if name == "openat":
            self.begun = self.begun or self.begin in text_at(pid, info.words[1])
            if info.words[2] & os.O_CREAT:
                name = "openat to make"
        if not self.begun or (name == "write" and not is_file(pid, info.words[0])):
            return
        self.calls.append(name)
        if self.at is None or len(self.calls) < self.at:
            return
        first = len(self.calls) == self.at
        if self.fault == "kill":
            os.kill(self.root, signal.SIGKILL)
        elif first or (self.fault == "ENOSPC" and name in NEEDS_SPACE):
            self.failing.add(pid)
            ptrace(POKEUSER, pid, ORIG_RAX, -1)
        self.reached = True


def run(words, begin, at=None, fault=None, seconds=300):
    """{"code": of its end, "calls": their names, "reached": there was an `at`-th}."""
    if platform.machine() != "x86_64":
        raise Unavailable("it follows the system calls of x86-64 only")
    order = json.dumps({"words": words, "begin": begin, "at": at, "fault": fault})
    done = subprocess.run([sys.executable, os.path.abspath(__file__), order], check=False,
                          capture_output=True, text=True, timeout=seconds)
    if done.returncode == 77:
        raise Unavailable(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main():
    order = json.loads(sys.argv[1])
    tracer = Tracer(order["begin"], order["at"], order["fault"])
    said = os.dup(1)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    try:
        tracer.start(order["words"])
        code = tracer.follow()
    except OSError as error:
        print(f"ptrace can't trace here: {error}", file=sys.stderr)
        return 77
    answer = {"code": code, "calls": tracer.calls, "reached": tracer.reached}
    os.write(said, json.dumps(answer).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
