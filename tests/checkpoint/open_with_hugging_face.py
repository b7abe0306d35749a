"""Hugging Face's own LlamaForCausalLM opens what `atoll checkpoint export --to=hf` writes, and
`import` takes what it saves:

    python3 open_with_hugging_face.py ATOLL HF_SAMPLE [CHECKPOINT...]

Needs torch and transformers (from 4.31 on). For models of hf_sample with tied and untied
embeddings, and for each CHECKPOINT of a job:
1. fp32: its logits are the trainer's to 1e-4; bf16: to a tenth of the largest.
2. What it saves comes back with `import`, and the trainer's logits are the same to the bit.
Prints the largest differences; exit code 1 if one is too large, 4 if something is not installed.
"""
import json
import os
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
except ImportError as error:
    print(f"{error}: install torch and transformers for {sys.executable}", file=sys.stderr)
    sys.exit(4)


def atoll(program, *words):
    done = subprocess.run([program, "checkpoint", *words, "--json"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=600, check=False)
    if done.returncode != 0:
        raise SystemExit(f"atoll checkpoint {' '.join(words)}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def sample(program, *words):
    done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def opened(directory):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory,
                                                              torch_dtype=torch.float32)
    assert type(model) is transformers.LlamaForCausalLM, type(model)
    return model.eval()


def distance(model, expected):
    """Of its logits from the trainer's; the largest of the trainer's."""
    with torch.no_grad():
        actual = model(torch.tensor([expected["tokens"]])).logits.flatten()
    wanted = torch.tensor(expected["logits"])
    assert actual.shape == wanted.shape, (actual.shape, wanted.shape)
    return (actual - wanted).abs().max().item(), wanted.abs().max().item()


def look(programs, base, name, checkpoint, expected):
    program, hf_sample = programs
    exact, rounded, saved, start = (os.path.join(base, f"{name}-{what}")
                                    for what in ("fp32", "bf16", "saved", "start"))
    atoll(program, "export", checkpoint, exact, "--to=hf", "--dtype=fp32")
    atoll(program, "export", checkpoint, rounded, "--to=hf", "--dtype=bf16")
    model = opened(exact)
    far, most = distance(model, expected)
    far_bf16, _ = distance(opened(rounded), expected)
    model.save_pretrained(saved, safe_serialization=True)
    back = sample(hf_sample, "logits", atoll(program, "import", saved, start)["resume"])
    same = back["logits"] == expected["logits"]
    print(f"{name}: logits up to {most:.3f}; fp32 differs by {far:.2g}, bf16 by {far_bf16:.2g}; "
          f"saved and imported, the trainer's are {'the same' if same else 'OTHERS'}")
    return far <= 1e-4 and 0 < far_bf16 <= 0.1 * most and same


def main():
    program, hf_sample, *checkpoints = sys.argv[1:]
    good = True
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as base:
        for kind in ("tied", "untied"):
            place = os.path.join(base, kind)
            expected = sample(hf_sample, "write", place, kind)
            good &= look((program, hf_sample), base, kind, place, expected)
        for number, checkpoint in enumerate(checkpoints):
            expected = sample(hf_sample, "logits", checkpoint)
            good &= look((program, hf_sample), base, f"job {number}", checkpoint, expected)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
