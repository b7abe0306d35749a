"""`atoll checkpoint export` and `import`: what other tools get is the model.

    python3 hf_export_test.py ATOLL HF_SAMPLE

1. An independent forward pass: plain Python, from config.json and the weights alone, as Hugging
   Face's modeling_llama.py does it (rotate_half, repeat_kv, RMSNorm, SwiGLU). Its logits are the
   trainer's, for tied and untied embeddings; with bf16 they are near.
2. Round trip: export in fp32, import, and the trainer's logits are the same to the bit; a second
   export gives the same bytes.
3. What the trainer has not is refused by import, with the key or the tensor named.
"""
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

ATOLL = SAMPLE = ""


def run(*words):
    return subprocess.run([ATOLL, "checkpoint", *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, check=False)


def sample(*words):
    done = subprocess.run([SAMPLE, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def weights(directory):
    """name -> (shape, flat list of floats), from model.safetensors."""
    content = read(os.path.join(directory, "model.safetensors"))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + at for at in entry["data_offsets"])
        raw = content[begin:end]
        if entry["dtype"] == "F32":
            values = struct.unpack(f"<{len(raw) // 4}f", raw)
        else:
            assert entry["dtype"] == "BF16", entry
            halves = struct.unpack(f"<{len(raw) // 2}H", raw)
            values = struct.unpack(f"<{len(halves)}f",
                                   b"".join(struct.pack("<I", half << 16) for half in halves))
        tensors[name] = (entry["shape"], values)
    return tensors


class Llama:
    """LlamaForCausalLM on lists of floats (double precision)."""

    def __init__(self, directory):
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
            self.config = json.load(file)
        assert self.config["architectures"] == ["LlamaForCausalLM"]
        self.tensors = weights(directory)

    def linear(self, name, vector):
        (rows, columns), values = self.tensors[name]
        assert columns == len(vector)
        return [sum(values[r * columns + c] * vector[c] for c in range(columns))
                for r in range(rows)]

    def norm(self, name, vector):
        scale = self.tensors[name][1]
        mean = sum(x * x for x in vector) / len(vector)
        factor = 1 / math.sqrt(mean + self.config["rms_norm_eps"])
        return [x * factor * w for x, w in zip(vector, scale)]

    def rotate(self, head, place):
        half = len(head) // 2
        result = [0.0] * len(head)
        for i in range(half):
            angle = place * self.config["rope_theta"] ** (-2 * i / len(head))
            cos, sin = math.cos(angle), math.sin(angle)
            result[i] = head[i] * cos - head[i + half] * sin
            result[i + half] = head[i + half] * cos + head[i] * sin
        return result

    def heads(self, vector, count):
        size = len(vector) // count
        return [vector[i * size:(i + 1) * size] for i in range(count)]

    def attention(self, prefix, states):
        heads, shared = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        queries, keys, values = [], [], []
        for place, state in enumerate(states):
            project = lambda part: self.linear(f"{prefix}.{part}_proj.weight", state)
            queries.append([self.rotate(h, place) for h in self.heads(project("q"), heads)])
            keys.append([self.rotate(h, place) for h in self.heads(project("k"), shared)])
            values.append(self.heads(project("v"), shared))
        mixed = []
        for place in range(len(states)):
            joined = []
            for head in range(heads):
                other = head // (heads // shared)
                query = queries[place][head]
                scores = [sum(q * k for q, k in zip(query, keys[at][other]))
                          / math.sqrt(len(query)) for at in range(place + 1)]
                top = max(scores)
                powers = [math.exp(score - top) for score in scores]
                total = sum(powers)
                joined += [sum(p / total * values[at][other][i] for at, p in enumerate(powers))
                           for i in range(len(query))]
            mixed.append(self.linear(f"{prefix}.o_proj.weight", joined))
        return mixed

    def logits(self, tokens):
        _, table = self.tensors["model.embed_tokens.weight"]
        width = self.config["hidden_size"]
        states = [list(table[t * width:(t + 1) * width]) for t in tokens]
        for n in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{n}"
            normed = [self.norm(f"{layer}.input_layernorm.weight", s) for s in states]
            attended = self.attention(f"{layer}.self_attn", normed)
            states = [[a + b for a, b in zip(s, t)] for s, t in zip(states, attended)]
            for s in states:
                x = self.norm(f"{layer}.post_attention_layernorm.weight", s)
                gate = self.linear(f"{layer}.mlp.gate_proj.weight", x)
                up = self.linear(f"{layer}.mlp.up_proj.weight", x)
                inner = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up)]
                s[:] = [a + b for a, b in
                        zip(s, self.linear(f"{layer}.mlp.down_proj.weight", inner))]
        head = ("model.embed_tokens.weight" if self.config["tie_word_embeddings"]
                else "lm_head.weight")
        result = []
        for s in states:
            result += self.linear(head, self.norm("model.norm.weight", s))
        return result


class Exports(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.tied = sample("write", self.path("tied"), "tied")
        self.untied = sample("write", self.path("untied"), "untied")

    def tearDown(self):
        self.directory.cleanup()

    def path(self, *names):
        return os.path.join(self.directory.name, *names)

    def export(self, kind, out, *flags):
        done = run("export", self.path(kind), self.path(out), *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.path(out)

    def distance(self, directory, expected):
        actual = Llama(directory).logits(expected["tokens"])
        self.assertEqual(len(actual), len(expected["logits"]))
        self.assertGreater(max(abs(x) for x in actual), 0.5, "a model that says nothing")
        return max(abs(a - b) for a, b in zip(actual, expected["logits"]))

    def test_an_independent_forward_pass_gives_the_trainers_logits(self):
        for kind, expected in (("tied", self.tied), ("untied", self.untied)):
            with self.subTest(kind):
                out = self.export(kind, f"{kind}-fp32", "--dtype=fp32")
                self.assertEqual("lm_head.weight" in weights(out), kind == "untied")
                self.assertLess(self.distance(out, expected), 1e-4)
                near = self.distance(self.export(kind, f"{kind}-bf16", "--dtype=bf16"), expected)
                self.assertTrue(1e-4 < near < 0.2, near)

    def test_export_and_import_give_the_same_bits_back(self):
        for kind, expected in (("tied", self.tied), ("untied", self.untied)):
            first = self.export(kind, f"{kind}-1", "--dtype=fp32")
            done = run("import", first, self.path(f"{kind}-start"), "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            answer = json.loads(done.stdout)
            self.assertEqual(answer["resume"], self.path(f"{kind}-start", "round-000000"))
            self.assertEqual(sample("logits", answer["resume"])["logits"], expected["logits"])
            second = self.export(f"{kind}-start", f"{kind}-2", "--dtype=fp32")
            self.assertEqual(sorted(os.listdir(first)), sorted(os.listdir(second)))
            for name in os.listdir(first):
                self.assertEqual(read(os.path.join(first, name)),
                                 read(os.path.join(second, name)), name)
            self.assertEqual(run("verify", answer["resume"]).returncode, 0)

    def test_bf16_is_rounded_to_nearest(self):
        exact = weights(self.export("tied", "a", "--dtype=fp32"))
        rounded = weights(self.export("tied", "b"))
        for name, (_, values) in exact.items():
            for value, near in zip(values, rounded[name][1]):
                self.assertLessEqual(abs(value - near), abs(value) * 2**-8)

    def test_export_leaves_what_is_there_alone_and_nothing_half_done(self):
        os.mkdir(self.path("full"))
        with open(self.path("full", "mine"), "w", encoding="utf-8") as file:
            file.write("x")
        self.assertEqual(run("export", self.path("tied"), self.path("full")).returncode, 2)
        done = run("export", self.path("tied"), self.path("out"), "--tokenizer=none.model")
        self.assertEqual(done.returncode, 2)
        model = self.path("tied", "round-000007", "model-00001-of-00001.safetensors")
        with open(model, "r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"\xff")
        done = run("export", self.path("tied"), self.path("out"))
        self.assertEqual(done.returncode, 2)
        self.assertIn("chunk 0", done.stderr)
        self.assertEqual(sorted(os.listdir(self.path())), ["full", "tied", "untied"])

    def test_a_tokenizer_of_bytes_maps_every_byte_to_its_number(self):
        out = self.export("tied", "out", "--tokenizer=bytes")
        with open(os.path.join(out, "tokenizer.json"), encoding="utf-8") as file:
            vocabulary = json.load(file)["model"]["vocab"]
        # GPT-2's bytes_to_unicode.
        letters = (list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256)))
        table, beyond = {b: b for b in letters}, 256
        for byte in range(256):
            if byte not in table:
                table[byte], beyond = beyond, beyond + 1
        self.assertEqual(vocabulary, {chr(letter): byte for byte, letter in table.items()})

    def test_import_refuses_what_the_trainer_has_not(self):
        good = self.export("untied", "good", "--dtype=fp32")
        with open(os.path.join(good, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        changes = [({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
                   ({"attention_bias": True}, "attention_bias"), ({"mlp_bias": True}, "mlp_bias"),
                   ({"hidden_act": "gelu"}, "hidden_act"), ({"model_type": "gpt2"}, "model_type"),
                   ({"head_dim": 12}, "head_dim"), ({"hidden_size": 10**12}, "hidden_size"),
                   ({"num_hidden_layers": 3}, "model.layers.2."), ({"vocab_size": 22}, "shape"),
                   ({"num_attention_heads": 5}, "heads"), ({"rms_norm_eps": "x"}, "rms_norm_eps"),
                   ({"num_hidden_layers": 1}, "model.layers.1."),
                   ({"tie_word_embeddings": True}, "lm_head.weight"),
                   ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type")]
        for number, (change, word) in enumerate(changes):
            with self.subTest(str(change)):
                bad = self.path(f"bad-{number}")
                shutil.copytree(good, bad)
                with open(os.path.join(bad, "config.json"), "w", encoding="utf-8") as file:
                    json.dump({**config, **change}, file)
                done = run("import", bad, self.path("start"))
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(word, done.stderr)
        self.assertFalse(os.path.exists(self.path("start")))

    def test_import_reads_several_files_and_half_precision(self):
        good = self.export("untied", "good", "--dtype=fp32")
        many = self.path("many")
        os.mkdir(many)
        shutil.copy(os.path.join(good, "config.json"), many)
        names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        tensors, placed = weights(good), {}
        for number, file_name in enumerate(names):
            header, data = {}, b""
            for index, (name, (shape, values)) in enumerate(tensors.items()):
                if index % 2 != number:
                    continue
                raw = struct.pack(f"<{len(values)}e", *values)
                header[name] = {"dtype": "F16", "shape": shape,
                                "data_offsets": [len(data), len(data) + len(raw)]}
                data += raw
                placed[name] = file_name
            text = json.dumps(header).encode()
            with open(os.path.join(many, file_name), "wb") as file:
                file.write(struct.pack("<Q", len(text)) + text + data)
        index = os.path.join(many, "model.safetensors.index.json")
        with open(index, "w", encoding="utf-8") as file:
            json.dump({"weight_map": placed}, file)
        done = run("import", many, self.path("start"))
        self.assertEqual(done.returncode, 0, done.stderr)
        back = weights(self.export("start", "back", "--dtype=fp32"))
        for name, (_, values) in tensors.items():
            halves = struct.unpack(f"<{len(values)}e", struct.pack(f"<{len(values)}e", *values))
            self.assertEqual(back[name][1], halves, name)
        for bad in ({"weight_map": {"model.norm.weight": "../x.safetensors"}}, [],
                    {"weight_map": {**placed, "model.norm.weight": names[0],
                                    "lm_head.weight": names[0]}}):
            with open(index, "w", encoding="utf-8") as file:
                json.dump(bad, file)
            self.assertEqual(run("import", many, self.path("other")).returncode, 2)


if __name__ == "__main__":
    ATOLL, SAMPLE = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
