#!/usr/bin/env python3
"""Feeds every rule of tidy.py bad samples, which it must catch, and good ones, to be let pass."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import tidy  # noqa: E402


def caught(rule, tree):
    return [(path, line) for path, line, _ in rule(tree)]


LATER = "TO" + "DO"


class TidyRules(unittest.TestCase):
    def check(self, rule, path, bad, good, line=1, more=None):
        more = more or {}
        self.assertEqual(caught(rule, {path: bad, **more}), [(path, line)], bad)
        self.assertEqual(caught(rule, {path: good, **more}), [], good)

    def test_layers_point_down(self):
        rule = tidy.layers_point_down
        include = '// What.\n#include "%s"\n'
        for folder, bad, good in [
            ("base", "proto/job.pb.h", "base/status.h"),
            ("proto", "control/client.h", "base/status.h"),
            ("control", "collectives/communicator.h", "proto/control.pb.h"),
            ("collectives", "proto/job.pb.h", "base/range.h"),
            ("collectives", "control/client.h", "collectives/lanes.h"),
            ("checkpoint", "proto/job.pb.h", "collectives/lanes.h"),
            ("checkpoint", "worker/data/dataset.h", "base/file.h"),
            ("worker", "orchestrator/core/core.h", "checkpoint/checkpoint.h"),
            ("orchestrator", "worker/agent/agent.h", "control/server.h"),
            ("orchestrator", "cli/verbs.h", "proto/job.pb.h"),
            ("worker", "tests/data/token_test_util.h", "<vector>"),
        ]:
            self.check(rule, f"{folder}/x/y.cc", include % bad, include % good, line=2)
        self.assertEqual(caught(rule, {"cli/x.cc": include % "worker/data/dataset.h",
                                       "tests/x.cc": include % "orchestrator/core/core.h"}), [])

    def test_a_schema_is_bound_by_the_floors_too(self):
        self.check(tidy.layers_point_down, "proto/x.proto", 'import "worker/y.proto";\n',
                   'import "proto/y.proto";\n')

    def test_includes_begin_at_the_root(self):
        more = {"worker/data/here.h": "// H.\n"}
        for bad in ('#include "here.h"\n', '#include "worker/data/gone.h"\n'):
            for good in ('#include "worker/data/here.h"\n', '#include "absl/status/status.h"\n',
                         '#include "proto/job.pb.h"\n', "#include <zmq.hpp>\n"):
                self.check(tidy.includes_begin_at_the_root, "worker/data/x.cc", bad, good,
                           more=more)

    def test_lower_floors_know_no_job(self):
        self.check(tidy.lower_floors_know_no_job, "collectives/x.h",
                   "void F(const pb::Job& job);\n", "void F();  // not pb::Job\n")

    def test_heavy_libraries_stay_in_their_places(self):
        rule = tidy.heavy_libraries_stay_in_their_places
        for header, good_path in [
            ("<torch/torch.h>", "worker/trainer/libtorch/model.cc"),
            ("<ATen/ATen.h>", "worker/trainer/libtorch/model.cc"),
            ("<mpi.h>", "collectives/mpi/mpi.cc"),
            ("<nccl.h>", "collectives/nccl/nccl.cc"),
            ("<cuda_runtime.h>", "collectives/nccl/nccl.cc"),
            ("<zmq.hpp>", "control/zmq_socket.cc"),
            ("<zmq.h>", "control/zmq_socket.cc"),
            ("<sqlite3.h>", "orchestrator/store/database.cc"),
            ("<glog/logging.h>", "base/log.h"),
            ("<yaml-cpp/yaml.h>", "proto/yaml_tree.cc"),
            ("<sentencepiece_processor.h>", "worker/data/sentencepiece_module.cc"),
        ]:
            text = f"// What.\n#include {header}\n"
            found = caught(rule, {"worker/main.cc": text})
            self.assertEqual(found, [("worker/main.cc", 2)], header)
            self.assertEqual(caught(rule, {good_path: text}), [], header)

    def test_yaml_is_included_once(self):
        text = "#include <yaml-cpp/yaml.h>\n"
        self.assertEqual(caught(tidy.heavy_libraries_stay_in_their_places,
                                {"proto/a.cc": text, "proto/b.cc": text}), [("proto/b.cc", 1)])

    def test_banned_calls(self):
        for bad in ("auto now = std::chrono::system_clock::now();", "int x = rand();",
                    "std::srand(1);", 'const char* home = getenv("HOME");',
                    'auto* home = std::getenv("HOME");', "usleep(10);", "  sleep(1);",
                    "::sleep(1);", "std::this_thread::sleep_for(delay);", "auto t = absl::Now();",
                    "std::random_device device;", "std::mt19937 random(1);"):
            for path in ("worker/x.cc", "tests/x.cc"):
                self.check(tidy.banned_calls, path, bad + "\n", f"// {bad}\n")
            self.assertEqual(caught(tidy.banned_calls, {"base/env.cc": bad}), [], bad)
        for good in ('Log("rand() and sleep(1)");', "x.rand();", "Operand(3);",
                     "clock->SleepFor(d);", 'R"(getenv("HOME"))";',
                     "int64_t n = 1'000; F('\"'); // rand()"):
            self.assertEqual(caught(tidy.banned_calls, {"worker/x.cc": good}), [], good)

    def test_tests_do_not_sleep(self):
        bad = "clock->SleepFor(absl::Seconds(1));\n"
        self.check(tidy.banned_calls, "tests/worker/x.cc", bad, "clock->Advance(1);\n")
        self.assertEqual(caught(tidy.banned_calls, {"tests/base/clock_test.cc": bad}), [])
        for bad in ("time." + "sleep(1)\n", "time." + "sleep(0.1)\n", "time." + "sleep(delay)\n"):
            for good in ("# never time." + "sleep(1)\n", "time." + "sleep(0.05)\n"):
                self.check(tidy.python_tests_do_not_sleep, "tests/e2e/x.py", bad, good)

    def test_a_number_with_quotes_hides_nothing(self):
        self.assertEqual(caught(tidy.banned_calls, {"worker/x.cc": "F(1'000); rand(); F(2'000);"}),
                         [("worker/x.cc", 1)])

    def test_files_say_what_they_are(self):
        rule = tidy.files_say_what_they_are
        self.check(rule, "worker/x.cc", "#include <vector>\n", "// X.\n#include <vector>\n")
        self.check(rule, "worker/x.h", "#pragma once\n", "/* X. */\n#pragma once\n")
        self.check(rule, "scripts/x", "#!/bin/sh\nls\n", "#!/bin/sh\n# X.\nls\n")
        self.check(rule, "tests/x.py", "import os\n", '"""X."""\nimport os\n')
        self.check(rule, "worker/CMakeLists.txt", "add_library(x)\n", "# X.\nadd_library(x)\n")
        self.check(rule, "proto/x.proto", 'syntax = "proto3";\n', '// X.\nsyntax = "proto3";\n')
        source = '#include "worker/x.h"\n'
        self.assertEqual(caught(rule, {"worker/x.cc": source, "worker/x.h": "// X.\n"}), [])
        self.assertEqual(len(caught(rule, {"worker/x.cc": source, "worker/x.h": "int x;\n"})), 2)

    def test_lines_fit(self):
        self.check(tidy.lines_fit, "worker/x.cc", "x" * 101 + "\n", "x" * 100 + "\n")
        self.check(tidy.lines_fit, "worker/x.cc", "int x; \n", "// https://" + "x" * 100 + "\n")
        self.check(tidy.lines_fit, "worker/x.cc", "\tint x;\n", "  int x;\n")
        self.check(tidy.lines_fit, "scripts/x", "x" * 101 + "\n", "x" * 100 + "\n")

    def test_headers_are_included_once(self):
        guard = '/* X. */\n#ifndef ATOLL_X_H_\n#define ATOLL_X_H_\n'
        self.check(tidy.headers_are_included_once, "worker/x.h", "// X.\n", "// X.\n#pragma once\n")
        self.check(tidy.headers_are_included_once, "worker/x.h", guard, guard + 'extern "C" {}\n')

    def test_nothing_is_left_for_later(self):
        for bad in (f"// {LATER}: more", f"# {LATER}(me)", "throw 'not " + "implemented'"):
            self.check(tidy.nothing_is_left_for_later, "worker/x.cc", bad, "// todos are a word")

    def test_no_paths_of_one_machine(self):
        self.check(tidy.no_paths_of_one_machine, "docs/x.md", "see /wo" + "rk/main\n",
                   "see build/wo" + "rk/main\n")

    def test_linked_pages_exist(self):
        rule = tidy.linked_pages_exist
        more = {"docs/here.md": "# Here\n", "docs/deep/x.md": "[up](../here.md)\n"}
        self.assertEqual(caught(rule, {"README.md": "[here](docs/here.md#top)\n", **more}), [])
        self.check(rule, "worker/x.cc", '"see docs/gone.md"\n', '"see docs/here.md"\n', more=more)
        self.check(rule, "README.md", "[gone](CHANGES)\n", "[web](https://example.org/x.md)\n",
                   more=more)
        self.check(rule, "docs/deep/y.md", "[gone](here.md)\n", "[folder](../deep)\n", more=more)

    def test_job_keys_are_documented(self):
        proto = ("message Job {\n  string name = 1;\n  Train train = 2;\n}\n"
                 "message Train {\n  enum Device { BEST = 0; }\n"
                 "  int64 rounds = 1 [(rule) = {}];\n}\n")
        rule = tidy.job_keys_are_documented
        page = tidy.JOB_PAGE
        self.assertEqual(caught(rule, {"proto/job.proto": proto, page: "`name`"}),
                         [("proto/job.proto", 7)])
        self.assertEqual(caught(rule, {"proto/job.proto": proto, page: "`train.rounds`"}),
                         [("proto/job.proto", 2)])
        self.assertEqual(caught(rule, {"proto/job.proto": proto, page: "`name` `rounds`"}), [])
        self.assertEqual(caught(rule, {"proto/job.proto": proto}), [])

    def test_every_rule_has_a_test(self):
        with open(os.path.abspath(__file__), encoding="utf-8") as file:
            text = file.read()
        for rule in tidy.RULES:
            self.assertIn(f"tidy.{rule.__name__}", text)


class TidyTree(unittest.TestCase):
    def test_reads_the_sources_and_nothing_else(self):
        with tempfile.TemporaryDirectory() as root:
            for path in ("CMakeLists.txt", "base/a.h", "build/b.h", "build-asan/c.h", "runs/d.py",
                         ".git/e", "tests/fuzz/corpus/f", "base/build.cc", ".ci/run"):
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                    file.write("// X.\n")
            with open(os.path.join(root, "base/binary"), "wb") as file:
                file.write(b"\0\1")
            self.assertEqual(sorted(tidy.read_tree(root)),
                             [".ci/run", "CMakeLists.txt", "base/a.h", "base/build.cc"])


if __name__ == "__main__":
    unittest.main()
