"""Opens a checkpoint with the standard library alone, from the safetensors specification.

Shares no code and no author's habits with the writer: run as
    python3 read_safetensors.py PROGRAM
where PROGRAM DIRECTORY writes the sample checkpoint. Every tensor's bytes are compared with the
values that they must hold, every chunk with its hash, and the index with what Hugging Face writes.
"""
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile

ROUND = 41
SECTIONS = ["model", "outer/momentum", "optim/exp_avg"]
CHUNK = 4 << 20
SHAPES = {
    "model.embed_tokens.weight": [67, 96],
    "model.layers.0.self_attn.q_proj.weight": [96, 96],
    "model.layers.0.input_layernorm.weight": [96],
    "model.layers.1.mlp.down_proj.weight": [100, 301],
    'odd "name" \n \u00e9 \U0001f30a': [3, 1, 5],
    "scalar": [],
    "empty": [0, 7],
    "model.norm.weight": [513],
}


def unique(pairs):
    """json.loads keeps the last of two equal keys; here they are an error."""
    result = dict(pairs)
    assert len(result) == len(pairs), "a key twice"
    return result


def read_safetensors(path):
    """Name -> (dtype, shape, bytes), as README.md of the safetensors project tells it."""
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=unique)
    data = content[8 + length :]
    metadata = header.pop("__metadata__")
    assert metadata == {"format": "pt"}, metadata
    assert (8 + length) % 4096 == 0, "data does not begin on a page"
    tensors = {}
    reached = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        assert begin == reached, f"{name} begins at {begin}, not at {reached}"
        reached = end
        tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    assert reached == len(data), "bytes after the last tensor"
    return tensors


def value(section, tensor, index):
    return float((ROUND * 31 + section * 7919 + tensor * 1009 + index * 40503) % 65521 - 32000)


def check_section(directory, number, prefix):
    folder, stem = os.path.split(os.path.join(directory, prefix))
    names = sorted(n for n in os.listdir(folder) if n.startswith(stem + "-"))
    count = len(names)
    assert count > 1, "the sample is meant to have several files a section"
    assert names == [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    tensors, places = {}, {}
    for name in names:
        for tensor, content in read_safetensors(os.path.join(folder, name)).items():
            assert tensor not in tensors, f"{tensor} twice"
            tensors[tensor], places[tensor] = content, name
    assert set(tensors) == set(SHAPES), sorted(tensors)
    for index, (tensor, shape) in enumerate(SHAPES.items()):
        dtype, stored_shape, raw = tensors[tensor]
        assert (dtype, stored_shape) == ("F32", shape), tensor
        size = len(raw) // 4
        expected = struct.pack(f"<{size}f", *(value(number, index, i) for i in range(size)))
        product = 1
        for dimension in shape:
            product *= dimension
        assert size == product and raw == expected, f"wrong values in {prefix} {tensor}"
    return places, sum(len(raw) for _, _, raw in tensors.values())


def check_index(directory, places, total):
    index = {"metadata": {"total_size": total}, "weight_map": places}
    expected = json.dumps(index, indent=2, sort_keys=True) + "\n"
    with open(os.path.join(directory, "model.safetensors.index.json"), encoding="utf-8") as file:
        assert file.read() == expected, "the index is not as Hugging Face writes it"


def check_manifest(directory):
    with open(os.path.join(directory, "MANIFEST.json"), encoding="utf-8") as file:
        text = file.read()
    manifest = json.loads(text, object_pairs_hook=unique)
    own = manifest["manifest_sha256"]
    assert hashlib.sha256(text.replace(own, "0" * 64).encode()).hexdigest() == own
    lines = {"root": "", "replicated_root": ""}
    for entry in manifest["files"]:
        with open(os.path.join(directory, entry["name"]), "rb") as file:
            content = file.read()
        hashes = b"".join(
            hashlib.sha256(content[i : i + CHUNK]).digest() for i in range(0, len(content), CHUNK)
        )
        hash_file = "chunks/" + entry["name"].replace("/", "_") + ".b32"
        with open(os.path.join(directory, hash_file), "rb") as file:
            assert file.read() == hashes, entry["name"]
        assert hashlib.sha256(hashes).hexdigest() == entry["root"], entry["name"]
        assert len(content) == entry["size"]
        line = "{root} {size} {class} {name}\n".format(**entry)
        lines["root"] += line
        if entry["class"] == "replicated":
            lines["replicated_root"] += line
    for key, joined in lines.items():
        assert hashlib.sha256(joined.encode()).hexdigest() == manifest[key], key


def main():
    with tempfile.TemporaryDirectory() as parent:
        subprocess.run([sys.argv[1], parent], check=True)
        directory = os.path.join(parent, f"round-{ROUND:06d}")
        for number, prefix in enumerate(SECTIONS):
            places, total = check_section(directory, number, prefix)
            if prefix == "model":
                check_index(directory, places, total)
        check_manifest(directory)
    print("every tensor, chunk hash and root is as it must be")


if __name__ == "__main__":
    main()
