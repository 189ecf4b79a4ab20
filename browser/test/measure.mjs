/**
 * What the page costs in headless Chromium: bytes, time to the first answer, time of an answer.
 *
 *     node test/measure.mjs
 */

import { build, launch, serve } from "./serve.mjs";

const LENGTHS = [1, 7, 20, 50];
const N_LOADS = 5;

const built = await build();
// a page that asks for isolation gets a clock of 5 microseconds instead of 100; nothing else needs it
const server = await serve({ "/": built.out }, undefined, {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
});
const browser = await launch();

/** A new visitor: milliseconds from navigation to the first answer, and to a loaded model. */
async function visit() {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(server.url);
  await page.waitForFunction(() => document.documentElement.dataset.ready === "true", null, {
    timeout: 120_000,
  });
  const text = (await page.locator("#figures").textContent()) ?? "";
  return { page, context, seconds: Number(/after ([\d.]+) s/.exec(text)?.[1]) };
}

const seconds = [];
for (let n = 0; n < N_LOADS; n++) {
  server.sent.bytes = 0;
  server.sent.files = [];
  const { context, seconds: one } = await visit();
  seconds.push(one);
  await context.close();
}
const kb = (bytes) => `${Math.round(bytes / 1024).toLocaleString("en")} KB`;
console.log(`transferred: ${kb(server.sent.bytes)} in ${server.sent.files.length} files`);
console.log(`navigation to first answer, ${N_LOADS} visits: ${seconds.sort((a, b) => a - b).join(", ")} s`);

const { page, context } = await visit();
const rows = await page.evaluate(measure, LENGTHS);
console.log("ms p50 (least, p99) of 300 requests, domain given, k 10");
console.log("history         plain                    explained                by history, explained");
for (const { length, kinds } of rows) {
  const cells = kinds.map(
    (times) => `${quantile(times, 0.5)} (${quantile(times, 0)}, ${quantile(times, 0.99)})`,
  );
  console.log(`${String(length).padEnd(16)}${cells.map((cell) => cell.padEnd(25)).join("")}`);
}
await context.close();
await browser.close();
await server.close();
await built.remove();

/** In the page: milliseconds of 300 requests of each kind, for each length of history. */
async function measure(lengths) {
  const { Recommender } = await import("/recommender.js");
  const recommender = await Recommender.load(new URL("/bundle/", location.href));
  const { ids, domains } = recommender.bundle;
  const first = ids.slice(0, domains[0].stop - 1);
  const result = [];
  for (const length of lengths) {
    const kinds = [];
    for (const kind of ["plain", "explained", "pseudo"]) {
      const times = [];
      for (let n = 0; n < 320; n++) {
        const history = Array.from({ length }, (_, i) => first[(n * 31 + i * 7) % first.length]);
        const pseudo = kind === "pseudo" ? history : "auto";
        const start = performance.now();
        await recommender.recommend(history, { domain: domains[1].name, pseudo, explain: kind !== "plain" });
        if (n >= 20) times.push(performance.now() - start); // after the first have warmed up
      }
      kinds.push(times);
    }
    result.push({ length, kinds });
  }
  return result;
}

/** @param {number[]} times @param {number} q */
function quantile(times, q) {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.floor(q * (sorted.length - 1))].toFixed(2);
}
