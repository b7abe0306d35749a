#!/usr/bin/env python3
"""Rules of the source tree: `tidy.py ROOT` prints FILE:LINE: what is wrong, and exits 1 if any is.

A rule is a function from a tree (path from the root -> text) to findings (path, line, message). The
rules are listed at the end; tidy_test.py feeds each of them bad samples.

1. Layers point down (ALLOWED): a folder includes its own headers and those of the floors below.
2. A heavy library is included by few files (HEAVY).
3. Clocks, chance, environment and sleep live in base/ alone; no test sleeps.
4. A source file says what it is, fits into 100 columns, leaves nothing for later.
5. Pages that are linked exist; keys of the job file are documented.
"""

import os
import re
import sys

# What a folder may include besides itself. tests/, bench/ and tools/ stand above the house.
FLOORS = {
    "base": set(),
    "proto": {"base"},
    "control": {"base", "proto"},
    "tools": {"base", "proto"},
    # The simulator runs the pure cores of both sides.
    "tools/sim": {"base", "proto", "tools", "worker", "orchestrator"},
    "collectives": {"base"},
    "checkpoint": {"base", "collectives"},
    "worker": {"base", "proto", "control", "collectives", "checkpoint"},
    "orchestrator": {"base", "proto", "control", "collectives", "checkpoint"},
    "cli": {"base", "proto", "control", "tools", "collectives", "checkpoint", "worker",
            "orchestrator"},
}
# collectives/ and checkpoint/ know no job, not even by a forward declaration of its message.
KNOW_NO_JOB = ("collectives", "checkpoint")

# (library, header, where it may be included, how many files may do so; None: any number there)
HEAVY = [
    ("torch", r"(torch|ATen|c10|caffe2)/.*", r"worker/trainer/libtorch/.*", None),
    ("MPI", r"mpi\.h", r"collectives/mpi/.*|bench/(region_bench\.cc|rivals/.*)", None),
    ("NCCL", r"nccl\.h", r"collectives/nccl/.*", None),
    ("CUDA", r"(cuda|cuda_runtime|cuda_runtime_api|driver_types)\.h",
     r"(collectives/nccl|worker/trainer/libtorch|tests/collectives)/.*", None),
    ("ZeroMQ", r"zmq\.hp?p?", r"(tests/)?control/.*", None),
    ("SQLite", r"sqlite3\.h", r"orchestrator/store/.*|tests/orchestrator/.*", None),
    ("glog", r"glog/.*", r"base/log\.(h|cc)", None),
    ("yaml-cpp", r"yaml-cpp/.*", r"proto/.*", 1),
    ("libcurl", r"curl/.*", r"base/http\.cc", 1),
    ("GLPK", r"glpk\.h", r"collectives/wan/plan/linear_program\.cc", 1),
    ("sentencepiece", r"sentencepiece.*", r"worker/data/sentencepiece_module\.cc", 1),
]

# (what is banned, where it may be, instead)
BANNED = [
    (r"\bsystem_clock::now\b", r"base/.*", "take a Clock (base/clock.h)"),
    (r"\babsl::(Now|GetCurrentTimeNanos)\s*\(", r"base/.*", "take a Clock (base/clock.h)"),
    (r"(?<![\w.:>])(std::)?s?rand\s*\(", r"base/.*", "use CounterRandom (base/random.h)"),
    (r"\bstd::(random_device|mt19937(_64)?)\b", r"base/.*", "use CounterRandom (base/random.h)"),
    (r"(?<![\w.:>])(std::|::)?(secure_)?getenv\s*\(", r"base/.*", "use GetEnv (base/env.h)"),
    (r"\bsleep_(for|until)\s*\(|(?<![\w.:>])(::)?(u|nano)?sleep\s*\(", r"base/.*",
     "wait for the event, or take a Clock (base/clock.h)"),
]
# Tests wait for events; a fake clock may be told to sleep.
BANNED_IN_TESTS = [(r"->SleepFor\s*\(", r"tests/base/.*", "wait for the event")]

CODE = (".h", ".cc", ".c", ".cu")
WIDTH = 100


def is_code(path):
    return path.endswith(CODE)


def is_script(path):
    return path.endswith((".py", ".sh")) or (path.startswith("scripts/") and "." not in path)


def without_comments(text):
    """The same lines, with comments, strings and characters blanked out."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group())
    pattern = (r'R"(\w*)\((?:.|\n)*?\)\1"|//[^\n]*|/\*(?:.|\n)*?\*/|"(?:\\.|[^"\\\n])*"'
               r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'")
    return re.sub(pattern, blank, text)


def includes(text):
    """(line, header, quoted) of every #include, and of every import of a .proto file."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if match:
            found.append((number, match.group(2), match.group(1) == '"'))
        match = re.match(r'\s*import\s+(?:public\s+)?"([^"]+)"', line)
        if match:
            found.append((number, match.group(1), True))
    return found


def layers_point_down(tree):
    for path, text in tree.items():
        folder = path.split("/")[0]
        if path.startswith("tools/sim/"):
            folder = "tools/sim"
        if folder not in FLOORS or not (is_code(path) or path.endswith(".proto")):
            continue
        for line, header, _ in includes(text):
            other = header.split("/")[0]
            if "/" not in header or (other not in FLOORS and other != "tests"):
                continue
            if other != folder and other not in FLOORS[folder]:
                yield path, line, (f"{folder}/ includes {header}: it may include "
                                   f"{', '.join(sorted(FLOORS[folder] | {folder}))} only")


def includes_begin_at_the_root(tree):
    folders = {path.split("/")[0] for path in tree if "/" in path}
    for path, text in tree.items():
        if not is_code(path):
            continue
        for line, header, quoted in includes(text):
            if not quoted or header in tree or header.endswith(".pb.h"):
                continue
            if "/" not in header or header.split("/")[0] in folders:
                yield path, line, f'no such header "{header}": includes begin at the root'


def lower_floors_know_no_job(tree):
    for path, text in tree.items():
        if path.split("/")[0] in KNOW_NO_JOB and is_code(path):
            for line, code in enumerate(without_comments(text).split("\n"), 1):
                if re.search(r"\bpb::", code):
                    yield path, line, f"{path.split('/')[0]}/ knows no messages of proto/"


def heavy_libraries_stay_in_their_places(tree):
    for library, header_pattern, place, most in HEAVY:
        users = []
        for path, text in tree.items():
            if not is_code(path):
                continue
            for line, header, _ in includes(text):
                if not re.fullmatch(header_pattern, header):
                    continue
                if not re.fullmatch(place, path):
                    yield path, line, f"{library} ({header}) may be included by {place} only"
                users.append((path, line))
        files = sorted({path for path, _ in users})
        if most is not None and len(files) > most:
            path, line = next(user for user in users if user[0] == files[-1])
            yield path, line, f"{library} is included by {len(files)} files, {most} may: {files}"


def banned_calls(tree):
    for path, text in tree.items():
        if not is_code(path):
            continue
        rules = BANNED + (BANNED_IN_TESTS if path.startswith("tests/") else [])
        for line, code in enumerate(without_comments(text).split("\n"), 1):
            for pattern, place, instead in rules:
                match = re.search(pattern, code)
                if match and not re.fullmatch(place, path):
                    yield path, line, f"'{match.group().strip()}' outside base/: {instead}"


def python_tests_do_not_sleep(tree):
    for path, text in tree.items():
        if path.startswith("tests/") and path.endswith(".py"):
            for line, code in enumerate(text.split("\n"), 1):
                # Less than 0.1 s is the pause of a loop that asks for another process's event.
                if re.search(r"\btime\.sleep\((?!0\.0\d*\))", code.split("#")[0]):
                    yield path, line, "a test sleeps: wait for the event"


def files_say_what_they_are(tree):
    def begins_with_comment(path):
        text = tree.get(path, "")
        if text.startswith("#!"):
            text = text.split("\n", 1)[-1]
        marks = ("//", "/*") if is_code(path) or path.endswith(".proto") else ("#", '"""')
        return text.lstrip().startswith(marks)

    for path in tree:
        known = (is_code(path) or is_script(path) or path.endswith((".proto", ".cmake")) or
                 os.path.basename(path) == "CMakeLists.txt")
        if not known or begins_with_comment(path):
            continue
        # X.cc may leave it to X.h.
        header = re.sub(r"\.(cc|c|cu)$", ".h", path)
        if header != path and header in tree and begins_with_comment(header):
            continue
        yield path, 1, "begins without a comment that says what the file is"


def lines_fit(tree):
    for path, text in tree.items():
        if not (is_code(path) or is_script(path)):
            continue
        for line, code in enumerate(text.split("\n"), 1):
            if len(code) > WIDTH and "http" not in code:
                yield path, line, f"{len(code)} columns, {WIDTH} fit"
            if code != code.rstrip():
                yield path, line, "blanks at the end of the line"
            if "\t" in code and is_code(path):
                yield path, line, "a tab"


def headers_are_included_once(tree):
    for path, text in tree.items():
        if not path.endswith(".h") or re.search(r"^#pragma once$", text, re.M):
            continue
        # Plain C for others' compilers may use the guard that every compiler knows.
        if 'extern "C"' in text and re.search(r"^#ifndef ATOLL_\w+_H_$", text, re.M):
            continue
        yield path, 1, "has no #pragma once"


LATER = re.compile(r"\b(" + "TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b|not (yet )?"
                   + r"implemented", re.I)


def nothing_is_left_for_later(tree):
    for path, text in tree.items():
        if path.endswith((".svg", ".json")):
            continue
        for line, code in enumerate(text.split("\n"), 1):
            match = LATER.search(code)
            if match and (match.group().isupper() or "implemented" in match.group().lower()):
                yield path, line, f"'{match.group()}': do it, or say what the code does instead"


def no_paths_of_one_machine(tree):
    pattern = re.compile(r"(?<![\w.])/(wo" + r"rk|ro" + r"ot)/")
    for path, text in tree.items():
        for line, code in enumerate(text.split("\n"), 1):
            if pattern.search(code):
                yield path, line, "names a path of one machine"


def linked_pages_exist(tree):
    def exists(target):
        target = os.path.normpath(target)
        return target in tree or any(path.startswith(target + "/") for path in tree)

    for path, text in tree.items():
        for line, code in enumerate(text.split("\n"), 1):
            for page in re.findall(r"(?<![\w/.-])docs/[\w./-]+\.md\b", code):
                # The samples of tidy_test.py are not the tree's own words.
                if not exists(page) and not path.startswith("tests/tree/"):
                    yield path, line, f"{page} does not exist"
            if not path.endswith(".md"):
                continue
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", code):
                if re.match(r"[a-z]+:", target):
                    continue
                if not exists(os.path.join(os.path.dirname(path), target)):
                    yield path, line, f"the link {target} leads nowhere"


JOB_PAGE = "docs/formats/job-file.md"


def job_keys(proto):
    """(line, 'train.rounds') of every key of the job file, from proto/job.proto."""
    messages = {}
    current = None
    for line, code in enumerate(proto.split("\n"), 1):
        match = re.match(r"message (\w+) \{", code)
        if match:
            current = messages.setdefault(match.group(1), [])
        match = re.match(r"  (?:repeated )?([\w.]+) (\w+) = \d+", code)
        if match and current is not None:
            current.append((line, match.group(1), match.group(2)))
    found = []
    for line, kind, name in messages.get("Job", []):
        if kind in messages:
            found += [(at, f"{name}.{key}") for at, _, key in messages[kind]]
        else:
            found.append((line, name))
    return found


def job_keys_are_documented(tree):
    """The page names every key in backticks: `train.rounds`, or `rounds` in train's section."""
    if JOB_PAGE not in tree or "proto/job.proto" not in tree:
        return
    page = tree[JOB_PAGE]
    for line, key in job_keys(tree["proto/job.proto"]):
        names = f"{re.escape(key)}|{re.escape(key.split('.')[-1])}"
        if not re.search(rf"`({names})\b", page):
            yield "proto/job.proto", line, f"the key {key} is not in {JOB_PAGE}"


RULES = [
    layers_point_down,
    includes_begin_at_the_root,
    lower_floors_know_no_job,
    heavy_libraries_stay_in_their_places,
    banned_calls,
    python_tests_do_not_sleep,
    files_say_what_they_are,
    lines_fit,
    headers_are_included_once,
    nothing_is_left_for_later,
    no_paths_of_one_machine,
    linked_pages_exist,
    job_keys_are_documented,
]

# Not source: what is built, what runs leave, what fuzzers eat.
SKIPPED_FOLDERS = re.compile(r"(build.*|runs|demo|\.git|\.cache|__pycache__|tests/fuzz/corpus)")


def read_tree(root):
    tree = {}
    for folder, folders, files in os.walk(root):
        here = os.path.relpath(folder, root)
        here = "" if here == "." else here + "/"
        folders[:] = sorted(name for name in folders if not SKIPPED_FOLDERS.fullmatch(here + name)
                            and name not in ("__pycache__", ".git"))
        for name in sorted(files):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                continue
            with open(path, "rb") as file:
                data = file.read()
            if b"\0" in data:
                continue
            tree[here + name] = data.decode("utf-8", errors="replace")
    return tree


def findings(tree, rules=None):
    return [(path, line, message, rule.__name__)
            for rule in rules or RULES for path, line, message in rule(tree)]


def main():
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        print("usage: tidy.py ROOT", file=sys.stderr)
        return 2
    tree = read_tree(sys.argv[1])
    found = findings(tree)
    for path, line, message, rule in found:
        print(f"{path}:{line}: {message} [{rule}]")
    print(f"{len(tree)} files, {len(RULES)} rules, {len(found)} findings")
    # A tree that was not read cannot be tidy.
    return 1 if found or "CMakeLists.txt" not in tree else 0


if __name__ == "__main__":
    sys.exit(main())
