#!/usr/bin/env bash
# A safetensors parser from the npm registry (Hugging Face's own, @huggingface/hub) opens what atoll
# writes: `read_with_npm.sh CHECKPOINT_SAMPLE`. Needs node, npm and a network; installs into a
# temporary directory.
set -eu
sample=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v npm >/dev/null || { echo "npm is not installed" >&2; exit 4; }
cd "$work"
npm install --no-audit --no-fund --ignore-scripts --loglevel=error @huggingface/hub@2.17.5 >&2
cp "$here/read_with_npm.mjs" .
"$sample" checkpoints
node read_with_npm.mjs checkpoints/round-000041
