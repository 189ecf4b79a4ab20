/** A plain static server, which counts what it sends, and a headless browser. */

import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = path.dirname(fileURLToPath(import.meta.url));
export const browserFolder = path.dirname(here);
export const modelsFolder = path.join(browserFolder, "../models");
export const chromiumPath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const environment = path.join(browserFolder, "../.venv/bin/python");
export const python = process.env.PYTHON ?? (existsSync(environment) ? environment : "python3");
export const skip = existsSync(chromiumPath) ? false : `no Chromium at ${chromiumPath} (set CHROMIUM)`;

const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
};
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/**
 * Serve folders on a free port of this machine.
 *
 * @param {Record<string, string>} folders by the path that they appear under, "/" is the rest
 * @param {(name: string, bytes: Buffer) => Buffer} [change] what becomes of a file on the way
 * @param {Record<string, string>} [headers] of every answer
 */
export async function serve(folders, change = (_, bytes) => bytes, headers = {}) {
  const sent = { bytes: 0, files: /** @type {string[]} */ ([]) };
  const server = createServer(async (request, response) => {
    const asked = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname);
    const name = asked.endsWith("/") ? `${asked}index.html` : asked;
    const mount = Object.keys(folders)
      .filter((prefix) => name.startsWith(prefix))
      .sort((a, b) => b.length - a.length)[0];
    try {
      const file = path.join(folders[mount], path.normalize(name.slice(mount.length)));
      const bytes = change(name, await readFile(file));
      const type = TYPES[path.extname(file)] ?? "application/octet-stream";
      response.writeHead(200, { "content-type": type, ...headers });
      response.end(bytes);
      sent.bytes += bytes.length;
      sent.files.push(name);
    } catch {
      response.writeHead(404).end("no such file");
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const url = `http://127.0.0.1:${/** @type {import("node:net").AddressInfo} */ (server.address()).port}/`;
  return { url, sent, close: () => new Promise((resolve) => server.close(resolve)) };
}

/**
 * A headless Chromium.
 *
 * @param {string[]} flags
 */
export function launch(flags = []) {
  return chromium.launch({ executablePath: chromiumPath, headless: true, args: [...FLAGS, ...flags] });
}

/** The page, built into a new folder, and how to remove it. */
export async function build() {
  const folder = await mkdtemp(path.join(tmpdir(), "llmcdsr-page-"));
  const out = path.join(folder, "dist");
  execFileSync(process.execPath, [path.join(browserFolder, "build.mjs"), "--out", out]);
  return { out, folder, remove: () => rm(folder, { recursive: true, force: true }) };
}
