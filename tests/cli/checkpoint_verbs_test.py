"""The verbs of `atoll checkpoint`, run as a user runs them: answers, exit codes, JSON.

    python3 checkpoint_verbs_test.py ATOLL CHECKPOINT_SAMPLE
    python3 checkpoint_verbs_test.py --corpus DIR      writes the crafted files, for the fuzzer

The crafted safetensors files are written here from the list of rules, without the project's own
writer: for each rule files that break it, and files that come close and are right.
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

ATOLL = SAMPLE = ""
DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8,
          "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16,
          "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
          "U64": 64}


def run(*words):
    return subprocess.run([ATOLL, "checkpoint", *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, check=False)


def answer(*words):
    done = run(*words, "--json")
    return done.returncode, json.loads(done.stdout)


def crafted(header, data=0, length=None):
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + b"d" * data


def entry(name, dtype, shape, begin, end):
    return (f'"{name}":{{"dtype":"{dtype}","shape":{json.dumps(shape)},'
            f'"data_offsets":[{begin},{end}]}}')


def tensor(fields, data=1):
    return crafted('{"a":{' + fields + "}}", data)


ONE = entry("a", "U8", [1], 0, 1)


def accepted():
    yield "no tensors", crafted("{}")
    yield "metadata only", crafted('{"__metadata__":{"a":"b"}}')
    yield "any order of tensors", crafted(
        "{" + entry("z", "U8", [2], 1, 3) + "," + ONE + ',"__metadata__":{}}', 3)
    yield "unaligned", crafted("{" + ONE + "," + entry("b", "F64", [1], 1, 9) + "}", 9)
    yield "empty tensors at either end", crafted(
        "{" + entry("e", "F32", [0], 0, 0) + "," + ONE + "," + entry("f", "F32", [3, 0], 1, 1)
        + "}", 1)
    yield "empty name", crafted("{" + entry("", "U8", [1], 0, 1) + "}", 1)
    yield "escaped NUL in a name", crafted("{" + entry("\\u0000", "U8", [1], 0, 1) + "}", 1)
    yield "surrogate pair", crafted("{" + entry("\\ud83d\\ude00", "U8", [1], 0, 1) + "}", 1)
    yield "names are not paths", crafted("{" + entry("/../x", "U8", [1], 0, 1) + "}", 1)
    yield "spaces at the end", crafted("{" + ONE + "}" + " " * 4000, 1)
    yield "white space inside", crafted("{\n\t\r " + ONE + "\n}", 1)
    yield "2^53 beside zero", crafted("{" + entry("a", "F4", [2**53, 0], 0, 0) + "}")
    for dtype, bits in DTYPES.items():
        yield dtype, crafted("{" + entry("a", dtype, [4], 0, bits // 2) + "}", bits // 2)


def refused():
    yield "file-length", b""
    yield "file-length", b"\x02\0\0\0\0\0\0"
    yield "file-length", crafted("{}", length=3)
    yield "file-length", crafted("{}", length=100_000_000)
    yield "header-limit", crafted("{}", length=100_000_001)
    yield "header-limit", crafted("{}", length=2**63)
    yield "header-limit", crafted("{}", length=2**64 - 1)
    for start in ("", " {}", "[]", "\ufeff{}", "\n{}", "null", '"{}"', "\0{}"):
        yield "header-start", crafted(start)
    for end in ("{}\n", "{}\t", "{}\0", "{}\0\0  ", "{}{}", "{}]", "{} a", "{},"):
        yield "header-end", crafted(end)
    for text in ("{", '{"a"', '{"a":', "{" + ONE + ",}", "{//\n}", "{'a':{}}", '{"a\n":{}}',
                 '{"\\ud800":{}}', '{"\\udc00\\ud800":{}}', '{"\\x41":{}}', "{\0}", '{"a" {}}'):
        yield "json", crafted(text)
    for raw in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x1f", b"\0"):
        yield "json", crafted(b'{"' + raw + b'":{}}')
    yield "depth", crafted('{"a":' + "[" * 16 + "]" * 16 + "}")
    yield "depth", crafted('{"__metadata__":' + '{"a":' * 16 + "1" + "}" * 17)
    yield "depth", crafted('{"a":' + "[" * 100_000)
    yield "duplicate-name", crafted("{" + ONE + "," + ONE + "}", 1)
    yield "duplicate-name", crafted("{" + ONE + "," + entry("\\u0061", "U8", [1], 1, 2) + "}", 2)
    yield "duplicate-name", crafted('{"__metadata__":{},"__metadata__":{}}')
    shape, dtype, offsets = '"shape":[1]', '"dtype":"U8"', '"data_offsets":[0,1]'
    for twice in (shape, dtype, offsets):
        yield "duplicate-field", tensor(",".join([shape, dtype, offsets, twice]))
    yield "duplicate-metadata", crafted('{"__metadata__":{"k":"v","k":"v"}}')
    for value in ("null", "[]", '"x"', "1", "true", '{"k":1}', '{"k":null}', '{"k":[]}',
                  '{"k":{}}', '{"k":true}'):
        yield "metadata", crafted('{"__metadata__":' + value + "}")
    for fields in ([shape, dtype], [shape, offsets], [dtype, offsets],
                   [shape, dtype, offsets, '"stride":[1]'], [shape, '"dtype":1', offsets],
                   ['"shape":{}', dtype, offsets], ['"shape":null', dtype, offsets],
                   [shape, dtype, '"data_offsets":"0,1"'], ['"Shape":[1]', dtype, offsets]):
        yield "entry", tensor(",".join(fields))
    for value in ('["U8",[1],[0,1]]', "null", "1", '"U8"', "{}"):
        yield "entry", crafted('{"a":' + value + "}", 1)
    for wrong in ("f32", "F128", "", "FLOAT", "F32 ", "Bf16", "F8", "F4_E2M1"):
        yield "dtype", crafted("{" + entry("a", wrong, [1], 0, 1) + "}", 1)
    for number in ("-1", "-0", "1.0", "1e0", "1E0", '"1"', "01", "null", "true",
                   "9007199254740993", "18446744073709551616", "1e400", "[1]", "{}", "0.5"):
        yield "number", tensor(f'"shape":[{number}],{dtype},{offsets}')
        yield "number", tensor(f'{shape},{dtype},"data_offsets":[0,{number}]')
        yield "number", tensor(f'{shape},{dtype},"data_offsets":[{number},1]')
    for wrong in ("", "0", "0,1,1", "1,0"):
        yield "offsets", tensor(f'{shape},{dtype},"data_offsets":[{wrong}]')
    yield "length", crafted("{" + entry("a", "F32", [1], 0, 3) + "}", 3)
    yield "length", crafted("{" + entry("a", "F32", [], 0, 0) + "}")
    yield "length", crafted("{" + entry("a", "F4", [1], 0, 1) + "}", 1)
    yield "length", crafted("{" + entry("a", "F6_E2M3", [2], 0, 2) + "}", 2)
    yield "length", crafted("{" + entry("a", "U8", [2**32, 2**32 + 1], 0, 2**32) + "}")
    big = 2**53
    for dims in ([big, big, 0], [0, big, big], [big, 0, big], [big, 1025], [2**32, 2**29, 8, 1]):
        yield "length", crafted("{" + entry("a", "U64", dims, 0, 0) + "}")
    two = ONE + ","
    for second, data in ((entry("b", "U8", [1], 2, 3), 3), (entry("b", "U8", [1], 0, 1), 1),
                         (entry("b", "U8", [2], 0, 2), 2), (entry("b", "U8", [1], 1, 2), 1),
                         (entry("b", "U8", [1], 1, 2), 3), (entry("b", "U8", [0], 2, 2), 1),
                         (entry("b", "U8", [1], 2**53 - 1, 2**53), 1)):
        yield "layout", crafted("{" + two + second + "}", data)
    yield "layout", crafted("{" + entry("a", "U8", [1], 1, 2) + "}", 2)
    yield "layout", crafted("{}", 1)
    yield "layout", crafted("{" + entry("a", "U8", [2], 0, 2) + ","
                            + entry("e", "U8", [0], 1, 1) + "}", 2)


class SafetensorsFiles(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "x.safetensors")

    def tearDown(self):
        self.directory.cleanup()

    def write(self, content):
        with open(self.path, "wb") as file:
            file.write(content)

    def test_what_the_rules_allow_is_shown_with_its_tensors(self):
        for what, content in accepted():
            with self.subTest(what):
                self.write(content)
                code, shown = answer("show", self.path)
                self.assertEqual(code, 0, shown)
                (length,) = struct.unpack("<Q", content[:8])
                header = json.loads(content[8:8 + length])
                header.pop("__metadata__", None)
                self.assertEqual({t.pop("name"): t for t in shown["tensors"]}, header)

    def test_what_breaks_a_rule_is_refused_with_its_name(self):
        cases = list(refused())
        self.assertGreater(len(cases), 140)
        for rule, content in cases:
            with self.subTest(rule=rule, content=content[:200]):
                self.write(content)
                code, shown = answer("show", self.path)
                self.assertEqual(code, 2, shown)
                self.assertEqual(shown["error"]["rule"], rule, shown)
                self.assertEqual(shown["error"]["exit_code"], 2)
                self.assertIn(self.path, shown["error"]["message"])

    def test_text_names_the_rule_and_escapes_what_could_move_a_terminals_cursor(self):
        self.write(crafted("{}", 1))
        done = run("show", self.path)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("'layout'", done.stderr)
        self.write(crafted("{" + entry("\\u001b[2J", "U8", [1], 0, 1) + "}", 1))
        self.assertIn('"\\u001b[2J"', run("show", self.path).stdout)

    def test_what_is_no_file_is_no_broken_rule(self):
        for path in ("/dev/zero", self.path):
            code, shown = answer("show", path)
            self.assertEqual(code, 2)
            self.assertNotIn("rule", shown["error"])


class Checkpoints(unittest.TestCase):
    """A run directory of two regions that hold rounds 40 and 41."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.run = os.path.join(self.directory.name, "run")
        for region in ("oslo", "johor"):
            for number in ("40", "41"):
                subprocess.run([SAMPLE, self.checkpoints(region), number, region], check=True)
        self.oslo = os.path.join(self.checkpoints("oslo"), "round-000041")
        self.johor = os.path.join(self.checkpoints("johor"), "round-000041")
        self.model = os.path.join(self.oslo, "model-00002-of-00003.safetensors")

    def tearDown(self):
        self.directory.cleanup()

    def checkpoints(self, region):
        return os.path.join(self.run, region, "checkpoints")

    def flip(self, path, place):
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))

    def test_ls_lists_all_regions_newest_first_and_says_what_does_not_count(self):
        os.mkdir(os.path.join(self.checkpoints("oslo"), ".round-000042.ab.partial"))
        code, listed = answer("ls", self.run)
        self.assertEqual(code, 0)
        self.assertEqual([(c["region"], c["round"]) for c in listed["checkpoints"]],
                         [("johor", 41), ("johor", 40), ("oslo", 41), ("oslo", 40)])
        roots = {c["replicated_root"] for c in listed["checkpoints"] if c["round"] == 41}
        self.assertEqual(len(roots), 1, "replicas of one round hold the same")
        self.assertEqual(len(listed["ignored"]), 1)
        self.assertIn("round-000041", run("ls", self.checkpoints("oslo")).stdout)
        self.assertEqual(answer("ls", self.oslo)[1]["checkpoints"][0]["round"], 41)
        self.assertEqual(run("ls", os.path.join(self.run, "none")).returncode, 2)

    def test_show_tells_of_the_newest(self):
        for path in (self.run, self.oslo + "/"):
            code, shown = answer("show", path)
            self.assertEqual((code, shown["round"]), (0, 41))
            self.assertEqual(shown["sections"][0], {"prefix": "model", "class": "replicated"})
        self.assertIn("model.norm.weight", run("show", self.oslo, "--tensors").stdout)
        os.remove(self.model)
        done = run("show", self.oslo)
        self.assertEqual(done.returncode, 2)
        self.assertIn(os.path.basename(self.model), done.stderr)

    def test_verify_names_file_and_chunk_and_repair_mends_it(self):
        code, told = answer("verify", self.run)
        self.assertEqual((code, told["whole"], len(told["checkpoints"])), (0, True, 4))
        self.flip(self.model, 5000)
        code, told = answer("verify", self.oslo)
        self.assertEqual((code, told["whole"]), (2, False))
        damage = told["checkpoints"][0]["damages"][0]
        self.assertEqual((damage["kind"], damage["file"], damage["chunk"]),
                         ("chunk", os.path.basename(self.model), 0))
        self.assertIn("chunk 0", run("verify", self.run).stdout)
        code, told = answer("repair", self.oslo, "--from", self.johor, "--dry_run")
        self.assertEqual((code, told["checkpoints"][0]["repaired"]), (0, False))
        code, told = answer("repair", os.path.join(self.run, "oslo"), "--from", self.run)
        self.assertEqual(code, 0, told)
        self.assertEqual([c["repaired"] for c in told["checkpoints"]], [True, False])
        self.assertEqual(answer("verify", self.run)[0], 0)

    def test_repair_leaves_alone_what_no_source_has(self):
        inner = os.path.join(self.oslo, "optim", "exp_avg-00002-of-00003.safetensors")
        self.flip(inner, 6000)
        code, told = answer("repair", self.oslo, "--from", self.johor)
        self.assertEqual(code, 2)
        self.assertEqual(told["checkpoints"][0]["lost"],
                         [{"file": "optim/exp_avg-00002-of-00003.safetensors", "chunk": 0}])
        self.assertEqual(answer("verify", self.oslo)[0], 2)

    def test_repair_brings_back_what_is_gone_altogether(self):
        shutil.rmtree(self.oslo)
        self.assertEqual(answer("repair", self.oslo, "--from", self.run)[0], 0)
        self.assertEqual(answer("verify", self.oslo)[0], 0)

    def test_verify_reads_a_sample_that_its_seed_repeats(self):
        code, told = answer("verify", self.oslo, "--sample=0.3", "--seed=7")
        self.assertEqual((code, told["seed"], told["checkpoints"][0]["chunks_checked"]), (0, 7, 3))
        for sample in ("0", "1.5", "x", "-1"):
            self.assertEqual(run("verify", self.oslo, f"--sample={sample}").returncode, 2)

    def test_prune_keeps_what_it_is_told_to_keep(self):
        code, told = answer("prune", self.run, "--keep=1", "--dry_run")
        self.assertEqual((code, len(told["directories"])), (0, 2))
        self.assertEqual(len(answer("ls", self.run)[1]["checkpoints"]), 4)
        pruned = answer("prune", self.checkpoints("oslo"), "--keep=1", "--keep_every=40")
        self.assertEqual(pruned[0], 0)
        self.assertEqual(answer("prune", self.checkpoints("johor"), "--keep=1")[0], 0)
        left = [(c["region"], c["round"]) for c in answer("ls", self.run)[1]["checkpoints"]]
        self.assertEqual(left, [("johor", 41), ("oslo", 41), ("oslo", 40)])
        self.assertEqual(run("prune", self.oslo).returncode, 2)
        self.assertEqual(run("prune", self.run, "--keep=0").returncode, 2)


def write_corpus(directory):
    os.makedirs(directory, exist_ok=True)
    files = [("good", content) for _, content in accepted()] + list(refused())
    for number, (rule, content) in enumerate(files):
        if len(content) < 5000:
            with open(os.path.join(directory, f"{number:03d}-{rule}"), "wb") as file:
                file.write(content)


if __name__ == "__main__":
    if sys.argv[1] == "--corpus":
        sys.exit(write_corpus(sys.argv[2]))
    ATOLL, SAMPLE = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
