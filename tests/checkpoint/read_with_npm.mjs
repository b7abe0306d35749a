// node read_with_npm.mjs CHECKPOINT: opens the sample checkpoint with the parser of
// @huggingface/hub, which gets the files through a fetch of ours (byte ranges of local files), and
// compares every tensor of the model with the values that it must hold.
import { parseSafetensorsMetadata } from "@huggingface/hub";
import { strict as assert } from "node:assert";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const directory = process.argv[2];
const ROUND = 41;
const SHAPES = {
  "model.embed_tokens.weight": [67, 96],
  "model.layers.0.self_attn.q_proj.weight": [96, 96],
  "model.layers.0.input_layernorm.weight": [96],
  "model.layers.1.mlp.down_proj.weight": [100, 301],
  'odd "name" \n \u00e9 \u{1f30a}': [3, 1, 5],
  scalar: [],
  empty: [0, 7],
  "model.norm.weight": [513],
};

async function localFetch(url, options = {}) {
  const path = join(directory, decodeURIComponent(new URL(url).pathname.split("/").pop()));
  if (!existsSync(path)) {
    return new Response(null, { status: 404, headers: { "X-Error-Code": "EntryNotFound" } });
  }
  const bytes = readFileSync(path);
  const asked = new Headers(options.headers).get("Range");
  const [, first, last] = asked?.match(/bytes=(\d+)-(\d*)/) ?? [null, 0, bytes.length - 1];
  const end = last === "" ? bytes.length : Math.min(Number(last) + 1, bytes.length);
  const part = bytes.subarray(Number(first), end);
  return new Response(options.method === "HEAD" ? null : part, {
    status: asked ? 206 : 200,
    headers: {
      "Content-Length": `${part.length}`,
      "Content-Range": `bytes ${first}-${end - 1}/${bytes.length}`,
      ETag: '"local"',
    },
  });
}

const parsed = await parseSafetensorsMetadata({
  repo: "local/sample",
  hubUrl: "http://local",
  fetch: localFetch,
});
assert.equal(parsed.sharded, true);
const seen = new Set();
const names = Object.keys(SHAPES);
for (const [file, header] of Object.entries(parsed.headers)) {
  const content = readFileSync(join(directory, file));
  const dataBegin = 8 + Number(content.readBigUInt64LE(0));
  assert.deepEqual(header.__metadata__, { format: "pt" });
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    assert.equal(dtype, "F32");
    assert.deepEqual(shape, SHAPES[name], name);
    const [begin, end] = data_offsets.map((offset) => dataBegin + offset);
    const size = shape.reduce((product, dimension) => product * dimension, 1);
    assert.equal(end - begin, 4 * size);
    for (let i = 0; i < size; ++i) {
      const tensor = names.indexOf(name);
      const expected = ((ROUND * 31 + tensor * 1009 + i * 40503) % 65521) - 32000;
      assert.equal(content.readFloatLE(begin + 4 * i), expected, `${name} at ${i}`);
    }
    seen.add(name);
  }
}
assert.deepEqual([...seen].sort(), names.sort());
console.log(`${seen.size} tensors in ${Object.keys(parsed.headers).length} files: as they must be`);
