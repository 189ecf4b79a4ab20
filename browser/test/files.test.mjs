/** What needs no browser: .npy files that NumPy wrote, hashes, the best k, weights in words. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { readRecall } from "../src/bundle_recall.js";
import { readFloat32, readHeader, readInt64 } from "../src/npy.js";
import { inWords } from "../src/pseudo.js";
import { plainSha256, sha256 } from "../src/sha256.js";
import { topK } from "../src/vectors.js";
import { python } from "./serve.mjs";

/** What `np.save` makes of an expression. */
function saved(expression) {
  const script = `import io, sys, numpy as np; f = io.BytesIO(); np.save(f, ${expression}); sys.stdout.buffer.write(f.getvalue())`;
  return new Uint8Array(execFileSync(python, ["-c", script]));
}

test("arrays that NumPy wrote", () => {
  const floats = saved("np.array([[1.5, -2, 3e-8], [0, 5, 6]], dtype=np.float32)");
  assert.deepEqual([...readFloat32(floats, "a.npy", [2, 3])], [1.5, -2, Math.fround(3e-8), 0, 5, 6]);
  const numbers = saved("np.array([0, -1, 2**40], dtype=np.int64)");
  assert.deepEqual([...readInt64(numbers, "a.npy", [3])], [0, -1, 2 ** 40]);
  assert.deepEqual(readHeader(saved("np.float32(1)"), "a.npy").shape, []);
});

test("a file at an odd place in memory", () => {
  const floats = saved("np.arange(4, dtype=np.float32)");
  const moved = new Uint8Array(floats.length + 1).subarray(1);
  moved.set(floats);
  assert.deepEqual([...readFloat32(moved, "a.npy", [4])], [0, 1, 2, 3]);
});

for (const [expression, shape, expected] of [
  ["np.zeros((2, 3), np.float64)", [2, 3], /a\.npy: <f8 array of shape \(2, 3\).*expected float32/],
  ["np.zeros((2, 3), '>f4')", [2, 3], />f4 array/],
  ["np.zeros((3, 2), np.float32)", [2, 3], /shape \(3, 2\).*expected float32 \(2, 3\)/],
  ["np.asfortranarray(np.zeros((2, 3), np.float32))", [2, 3], /Fortran order/],
  ["np.array([[1, 2, np.nan]], np.float32)", [1, 3], /not finite/],
  ["np.array([[1, 2, np.inf]], np.float32)", [1, 3], /not finite/],
  ["np.array([{}], object)", [1], /array of shape \(1\) in C order, expected float32/],
  ["np.zeros(1, [('x', 'f4')])", [1], /header is not as NumPy writes it/],
]) {
  test(`refused: ${expression}`, () => {
    assert.throws(() => readFloat32(saved(expression), "a.npy", shape), {
      name: "BundleError",
      message: expected,
    });
  });
}

test("files that are cut off, or no arrays at all", () => {
  const whole = saved("np.arange(4, dtype=np.float32)");
  for (let length = 0; length < whole.length; length++) {
    assert.throws(
      () => readFloat32(whole.subarray(0, length), "a.npy", [4]),
      { name: "BundleError" },
      `${length}`,
    );
  }
  assert.throws(() => readFloat32(new TextEncoder().encode("PK\x03\x04 an archive"), "a.npy", [4]), /begin/);
});

test("what is said in the space of every domain has a row of padding", () => {
  const of = { recall: { hidden: 2, title_lengths: [1, 1, 1] } };
  const names = "np.indices((2, 4, 2), np.float32)[1]"; // rows 0, 1, 2, 3, twice
  const files = new Map([
    ["recall_names.npy", saved(names)],
    ["recall_items.npy", saved("np.zeros((4, 2), np.float32)")],
    ["recall_poolers.npy", saved("np.zeros((3, 2), np.float32)")],
  ]);
  assert.equal(readRecall(of, files, 4, 3)?.names.length, 16);
  files.set("recall_names.npy", saved(`np.maximum(${names}, np.indices((2, 4, 2), np.float32)[0])`));
  assert.throws(() => readRecall(of, files, 4, 3), /recall_names\.npy: row 0 is padding and must be zero/);
});

test("hashes of every length around a block, with and without the browser's help", async () => {
  for (const length of [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1000, 70_001]) {
    const bytes = new Uint8Array(randomBytes(length));
    const expected = createHash("sha256").update(bytes).digest("hex");
    assert.equal(plainSha256(bytes), expected, `${length}`);
    assert.equal(await sha256(bytes), expected, `${length}`);
  }
});

test("the best k, ties by place, nothing at minus infinity", () => {
  for (let round = 0; round < 200; round++) {
    const scores = Float32Array.from({ length: 60 }, () => Math.floor(Math.random() * 12));
    scores[round % 60] = -Infinity;
    const sorted = [...scores.keys()].filter((place) => scores[place] > -Infinity);
    sorted.sort((a, b) => scores[b] - scores[a] || a - b);
    for (const k of [1, 7, 59, 60, 100]) assert.deepEqual(topK(scores, k), sorted.slice(0, k));
  }
});

test("weights in words, as Python writes them", () => {
  const weights = [
    1e4, 9999, 2345.6, 999.6, 120, 6.2047992990863525, 1.2, 0.5, 1.2e-4, 9.9996e-5, 1e-5, 3e-300,
  ];
  const script = "import json, sys; print(json.dumps([f'{x:.3g}' for x in json.load(sys.stdin)]))";
  const printed = execFileSync(python, ["-c", script], { input: JSON.stringify(weights) });
  const said = weights.map((similar) => inWords({ weights: { similar, inserted: 0 }, rows: [] }));
  const expected = JSON.parse(String(printed)).map((weight) => `add ${weight} x cosine to the scores`);
  assert.deepEqual(said, expected);
});
