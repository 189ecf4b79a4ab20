/**
 * Put the page together: sources, onnxruntime-web from node_modules, and a bundle as it is.
 *
 *     node build.mjs [--bundle DIR] [--examples FILE] [--out DIR]
 *
 * The result is a folder for any static file server.
 */

import { copyFile, cp, mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";

const here = path.dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    bundle: { type: "string", default: path.join(here, "../models/demo") },
    examples: { type: "string", default: path.join(here, "../models/demo-histories.jsonl") },
    out: { type: "string", default: path.join(here, "dist") },
  },
});
const runtime = path.join(here, "node_modules/onnxruntime-web");

/**
 * @param {string} file
 * @param {string} hint
 */
async function mustExist(file, hint) {
  await stat(file).catch(() => {
    console.error(`build.mjs: ${file} is missing: ${hint}`);
    process.exit(1);
  });
}

await mustExist(path.join(runtime, "package.json"), "run 'npm ci' first");
await mustExist(path.join(options.bundle, "config.json"), "--bundle must name a bundle folder");
await mustExist(options.examples, "--examples must name a JSON Lines file of histories");
await rm(options.out, { recursive: true, force: true });
await mkdir(path.join(options.out, "vendor"), { recursive: true });
await cp(path.join(here, "src"), options.out, { recursive: true });
await cp(options.bundle, path.join(options.out, "bundle"), { recursive: true });
await copyFile(options.examples, path.join(options.out, "examples.jsonl"));
// the smallest that runs a model: no WebGPU, and its loader is part of the one module
await copyFile(path.join(runtime, "dist/ort.wasm.bundle.min.mjs"), path.join(options.out, "vendor/ort.js"));
// plain static servers do not compress, and packed it is a quarter: the page unpacks it
const wasm = await readFile(path.join(runtime, "dist/ort-wasm-simd-threaded.wasm"));
await writeFile(path.join(options.out, "vendor/ort.wasm.gz"), gzipSync(wasm, { level: 9 }));
const { version } = JSON.parse(await readFile(path.join(runtime, "package.json"), "utf8"));
const notice = `onnxruntime-web ${version}. Copyright (c) Microsoft Corporation. MIT License; text and notices of what it
contains: https://github.com/microsoft/onnxruntime/tree/v${version} (LICENSE, ThirdPartyNotices.txt)
`;
await writeFile(path.join(options.out, "vendor/NOTICE.txt"), notice);
console.log(`built ${options.out}: serve it with  python -m http.server --directory ${options.out}`);
