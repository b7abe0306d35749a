"""Writes a checkpoint of random weights, for measuring: make_checkpoint.py DIRECTORY MIB [ROUND].

From docs/formats/checkpoint.md alone, so it is also a second writer of the format. Bytes do not
compress and differ in every chunk. Prints the path.
"""
import hashlib
import json
import os
import sys

CHUNK = 4 << 20
PER_FILE = 1 << 30
ROW = 1 << 20  # elements: 4 MiB a tensor


def sha(data):
    return hashlib.sha256(data).digest()


def write_file(path, tensors, block):
    """A safetensors file of tensors of ROW elements; its chunk hashes."""
    entries = {name: {"dtype": "F32", "shape": [ROW],
                      "data_offsets": [4 * ROW * i, 4 * ROW * (i + 1)]}
               for i, name in enumerate(tensors)}
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-(len(head) + 8) % 4096)
    data = len(head).to_bytes(8, "little") + head
    hashes, rest = [], data
    with open(path, "wb") as file:
        for name in tensors:
            number = int(name[1:])
            rest += number.to_bytes(8, "little") + block[8:]
            while len(rest) >= CHUNK:
                file.write(rest[:CHUNK])
                hashes.append(sha(rest[:CHUNK]))
                rest = rest[CHUNK:]
        if rest:
            file.write(rest)
            hashes.append(sha(rest))
    return b"".join(hashes)


def put(folder, name, hashes, files):
    with open(os.path.join(folder, "chunks", name.replace("/", "_") + ".b32"), "wb") as file:
        file.write(hashes)
    files.append({"class": "replicated", "name": name, "root": sha(hashes).hex(),
                  "size": os.path.getsize(os.path.join(folder, name))})


def root_of(files):
    return sha("".join(f"{f['root']} {f['size']} {f['class']} {f['name']}\n"
                       for f in files).encode()).hex()


def manifest_text(files, tensors, number):
    lines = {
        "chunk_bytes": CHUNK,
        "description": {"digest": "00" * 16, "inner_steps": number, "job": "bench",
                        "model_yaml": "", "next_sample": 0, "optimizer_updates": 0,
                        "region": "bench", "round": number, "seed": "1"},
        "files": files, "format": "atoll-checkpoint", "hash": "sha256",
        "manifest_sha256": "0" * 64, "replicated_root": root_of(files), "root": root_of(files),
        "sections": [{"class": "replicated", "prefix": "model"}],
        "tensors": [{"name": name, "offset": i * ROW, "shape": [ROW]}
                    for i, name in enumerate(tensors)],
        "version": 1}
    parts = []
    for key, value in lines.items():
        if key in ("files", "sections", "tensors"):
            text = "[\n" + ",\n".join("    " + json.dumps(one) for one in value) + "\n  ]"
        elif key == "description":
            text = "{\n" + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}"
                                      for k, v in value.items()) + "\n  }"
        else:
            text = json.dumps(value)
        parts.append(f"  {json.dumps(key)}: {text}")
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    return text.replace("0" * 64, sha(text.encode()).hex(), 1)


def main():
    directory, mib = sys.argv[1], int(sys.argv[2])
    number = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    folder = os.path.join(directory, f"round-{number:06d}")
    os.makedirs(os.path.join(folder, "chunks"))
    block = os.urandom(4 * ROW)
    tensors = [f"t{i:07d}" for i in range(max(1, mib // 4))]
    per_file = PER_FILE // (4 * ROW)
    groups = [tensors[i:i + per_file] for i in range(0, len(tensors), per_file)]
    files, where = [], {}
    for i, group in enumerate(groups):
        name = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        put(folder, name, write_file(os.path.join(folder, name), group, block), files)
        where.update({tensor: name for tensor in group})
    index = json.dumps({"metadata": {"total_size": 4 * ROW * len(tensors)},
                        "weight_map": dict(sorted(where.items()))}, indent=2) + "\n"
    name = "model.safetensors.index.json"
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(index)
    put(folder, name, sha(index.encode()), files)
    with open(os.path.join(folder, "MANIFEST.json"), "w", encoding="utf-8") as file:
        file.write(manifest_text(sorted(files, key=lambda f: f["name"]), tensors, number))
    print(folder)


if __name__ == "__main__":
    main()
