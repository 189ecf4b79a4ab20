/** A bundle that is damaged, incomplete or newer is refused, and the page says why. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { build, launch, modelsFolder, serve, skip } from "./serve.mjs";

const demo = path.join(modelsFolder, "demo");
const config = () => JSON.parse(readFileSync(path.join(demo, "config.json"), "utf8"));

/** config.json with a change. */
const configured = (change) => ({
  "config.json": () => {
    const value = config();
    change(value);
    return Buffer.from(JSON.stringify(value));
  },
});

/** A file with a change; config.json has the new size and hash, as if it had been meant. */
const meant = (name, change) => {
  const bytes = () => change(Buffer.from(readFileSync(path.join(demo, name))));
  const entry = { bytes: bytes().length, sha256: createHash("sha256").update(bytes()).digest("hex") };
  return { [name]: bytes, ...configured((value) => Object.assign(value.files[name], entry)) };
};

const flip = (bytes) => {
  bytes[bytes.length - 5] ^= 1;
  return bytes;
};
const float = (place, value) => (bytes) => {
  bytes.writeFloatLE(value, 128 + 4 * place);
  return bytes;
};
const int = (place, value) => (bytes) => {
  bytes.writeInt32LE(value, 128 + 4 * place);
  return bytes;
};
/** The first sparse row of two items has one of them twice. */
const repeated = (bytes) => {
  const file = readFileSync(path.join(demo, "next_starts.npy"));
  const starts = new BigInt64Array(file.buffer.slice(file.byteOffset + 128, file.byteOffset + file.length));
  const place = Number(starts[starts.findIndex((start, i) => starts[i + 1] - start > 1n)]);
  return int(place + 1, bytes.readInt32LE(128 + 4 * place))(bytes);
};
/** The second domain is two of them. */
const threeDomains = (value) => {
  value.domains[1].items = 400;
  value.domains.push({ name: "linen", items: 16 });
  value.mix.push(value.mix[1]);
  value.recall.title_lengths.push(1);
};
const missing = () => {
  throw new Error("no such file");
};

const COUNTS = ["next_starts.npy", "next_rows.npy", "next_weights.npy"];
const RECALL = ["recall_names.npy", "recall_items.npy", "recall_poolers.npy", "recall_projections.npy"];
const CASES = {
  flipped: [{ "item_vectors.npy": flip }, /item_vectors\.npy: SHA-256 is .* damaged or changed/],
  short: [
    { "recommender.onnx": (bytes) => bytes.subarray(1) },
    /recommender\.onnx: 76155 bytes, expected 76156/,
  ],
  gone: [{ "item_titles.json": missing }, /item_titles\.json: is missing: the server answers 404/],
  "no config": [{ "config.json": missing }, /config\.json: is missing/],
  "no JSON": [{ "config.json": () => Buffer.from("{") }, /config\.json: not valid JSON/],
  "another format": [configured((value) => (value.format = "other")), /field 'format' is "other"/],
  newer: [
    configured((value) => (value.format_version = 5)),
    /field 'format_version' is 5, expected 1: the bundle was made by another version/,
  ],
  "no version": [configured((value) => delete value.format_version), /field 'format_version'/],
  unlisted: [configured((value) => delete value.files["item_counts.npy"]), /does not list item_counts\.npy/],
  "half a recall network": [
    configured((value) => delete value.files["recall_items.npy"]),
    /does not list recall_items\.npy/,
  ],
  "files without recall": [configured((value) => delete value.recall), /lists recall_names\.npy, but has no/],
  "recall without a mix": [
    configured((value) => {
      delete value.mix;
      for (const name of COUNTS) delete value.files[name];
    }),
    /has a recall network, but no field 'mix'/,
  ],
  "a mix that recalls without a network": [
    configured((value) => {
      value.mix[1].cold.inserted = 0.5;
      delete value.recall;
      for (const name of RECALL) delete value.files[name];
    }),
    /weighs pseudo items, but there is no recall network/,
  ],
  "a mix of one domain": [
    configured((value) => value.mix.pop()),
    /'mix' must list 2 domains, as 'domains' does/,
  ],
  "no domain": [configured((value) => (value.domains = [])), /'domains' must list 1 to 64 domains/],
  "too many domains": [
    configured(
      (value) => (value.domains = Array.from({ length: 65 }, (_, i) => ({ name: `${i}`, items: 1 }))),
    ),
    /'domains' must list 1 to 64 domains/,
  ],
  "two domains of a name": [
    configured((value) => (value.domains[1].name = "groceries")),
    /two of 'domains' are named 'groceries'/,
  ],
  "recall for one domain": [
    configured((value) => {
      value.domains = [{ name: "all", items: 830 }];
      value.mix.pop();
    }),
    /has field 'recall', but one domain alone: there is nothing to recall for/,
  ],
  "a length too few": [
    configured((value) => value.recall.title_lengths.pop()),
    /'recall\.title_lengths' is \[1\.\d+\], expected 2 lengths/,
  ],
  "names for a domain too few": [
    configured(threeDomains),
    /recall_names\.npy: <f4 array of shape \(1, 831, 32\) in C order, expected float32 \(2, 831, 32\)/,
  ],
  "counts for a domain too few": [
    configured((value) => {
      threeDomains(value);
      for (const { cold } of value.mix) Object.assign(cold, { similar: 0, inserted: 0 });
      delete value.recall;
      for (const name of RECALL) delete value.files[name];
    }),
    /next_starts\.npy: <i8 array of shape \(1663\) in C order, expected int64 \(2494\)/,
  ],
  "counts without a mix": [configured((value) => delete value.mix), /lists next_starts\.npy, but has no/],
  "a mix without its counts": [
    configured((value) => {
      value.mix[0].cold.next = 1;
      for (const name of COUNTS) delete value.files[name];
    }),
    /weighs next-item counts, but 'files' does not list next_starts\.npy/,
  ],
  "half of the counts": [
    configured((value) => delete value.files["next_rows.npy"]),
    /lists next_starts\.npy, but not next_rows\.npy/,
  ],
  "counts out of order": [meant("next_rows.npy", repeated), /next_rows\.npy: rows must rise within a/],
  "counts of the other domain": [
    meant("next_rows.npy", int(0, 830)),
    /next_rows\.npy: row 830 for 'groceries', expected 1 to 414/,
  ],
  "no counts": [
    meant("next_starts.npy", (bytes) => bytes.fill(0, 128)),
    /next_starts\.npy: ends at 0, expected at least 1/,
  ],
  "a count of zero": [meant("next_weights.npy", float(0, 0)), /next_weights\.npy: holds what is not above 0/],
  "a mix without names": [configured((value) => delete value.mix[1].named), /'mix' has no field 'named'/],
  "a mix without validation": [
    configured((value) => delete value.mix[0].validation),
    /'mix' has no field 'validation'/,
  ],
  "validation in words": [
    configured((value) => (value.mix[0].validation = "good")),
    /validation must be an object/,
  ],
  "weights with one missing": [
    configured((value) => delete value.mix[1].cold.similar),
    /'mix' has no field 'similar'/,
  ],
  "an unknown expert": [
    configured((value) => (value.mix[0].cold.oracle = 1)),
    /'mix' has an unknown field 'oracle'/,
  ],
  "an unknown field of a mix": [
    configured((value) => (value.mix[0].place = "spread")),
    /'mix' has an unknown field 'place'/,
  ],
  "none recalled": [
    configured((value) => (value.mix[0].n_recalled = 0)),
    /'n_recalled' is 0, expected a number from 1 to 1000/,
  ],
  "too many recalled": [configured((value) => (value.mix[0].n_recalled = 1001)), /'n_recalled' is 1001/],
  "half an item recalled": [configured((value) => (value.mix[0].n_recalled = 1.5)), /'n_recalled' is 1\.5/],
  "unknown source": [
    configured((value) => (value.mix[0].source = "hearsay")),
    /source is "hearsay", expected one of titles, companions, both, names/,
  ],
  "pseudo items for the warm": [
    configured((value) => (value.mix[1].warm.similar = 1)),
    /warm weighs experts for users without items/,
  ],
  "popularity for the warm": [
    configured((value) => (value.mix[0].warm.popular = 1)),
    /warm weighs experts for users without items/,
  ],
  "names of no weight": [
    configured((value) => Object.assign(value.mix[0].named, { similar: 0, inserted: 0 })),
    /named must weigh pseudo items alone/,
  ],
  "names that weigh counts": [
    configured((value) => (value.mix[1].named.next = 1)),
    /named must weigh pseudo items alone/,
  ],
  "names that weigh popularity": [
    configured((value) => (value.mix[1].named.popular = 1)),
    /named must weigh pseudo items alone/,
  ],
  "a weight too large": [configured((value) => (value.mix[0].cold.inserted = 10001)), /inserted is 10001/],
  "a weight in words": [configured((value) => (value.mix[0].warm.next = "1")), /next is "1", expected/],
  "an offset too low": [configured((value) => (value.mix[1].offset = -10001)), /offset is -10001, expected/],
  "seen items, perhaps": [configured((value) => (value.mix[0].exclude_seen = 1)), /exclude_seen is 1/],
  "a weight below zero": [configured((value) => (value.mix[0].cold.similar = -1)), /similar is -1, expected/],
  "other sizes": [configured((value) => (value.domains[0].items = 413)), /830 strings, expected 829/],
  "not finite": [
    meant("item_vectors.npy", float(40, NaN)),
    /item_vectors\.npy: holds values that are not finite/,
  ],
  padding: [meant("item_vectors.npy", float(3, 1)), /item_vectors\.npy: row 0 is padding/],
  "padding that says something": [
    meant("recall_names.npy", float(3, 1)),
    /recall_names\.npy: row 0 is padding and must be zero/,
  ],
  "too long": [meant("recall_items.npy", float(32, 5)), /recall_items\.npy: row 1 has length 5/],
  "an id twice": [
    meant("item_ids.json", (bytes) => {
      const ids = JSON.parse(String(bytes));
      return Buffer.from(JSON.stringify([ids[1], ...ids.slice(1)]));
    }),
    /item_ids\.json: item id '.*' occurs more than once/,
  ],
};
const SHOWN = {
  "a flipped bit": CASES.flipped,
  "no model": [
    meant("recommender.onnx", () => Buffer.from("not a model")),
    /recommender\.onnx: is not the recommender of this bundle/,
  ],
};

describe("damaged bundles", { skip }, () => {
  let browser, built, server, page;
  let shown = {};

  before(async () => {
    built = await build();
    server = await serve({ "/": built.out, ...mounts() }, (name, bytes) => {
      const [, first, kind, file] = name.split("/").map(decodeURIComponent);
      if (first === "damaged") return CASES[kind][0][file]?.(bytes) ?? bytes;
      return shown[path.basename(name)]?.(bytes) ?? bytes;
    });
    browser = await launch();
    page = await browser.newPage();
    await page.goto(`${server.url}bundle.js`); // same origin, without the page itself
  });

  after(async () => {
    await browser?.close();
    await server?.close();
    await built?.remove();
  });

  for (const [kind, [, expected]] of Object.entries(CASES)) {
    test(`refused: ${kind}`, async () => {
      const message = await page.evaluate(
        async (folder) => {
          const { readBundle } = await import("/bundle.js");
          return readBundle(new URL(folder, location.href)).then(
            () => "accepted",
            (error) => `${error.name}: ${error.message}`,
          );
        },
        `/damaged/${encodeURIComponent(kind)}/`,
      );
      assert.match(message, /^BundleError: /);
      assert.match(message, expected);
    });
  }

  test("titles are text, whatever they hold", async () => {
    const hostile = '<img src="x" onerror="alert(1)">';
    shown = meant("item_titles.json", (bytes) => {
      const titles = JSON.parse(String(bytes)).map(() => hostile);
      return Buffer.from(JSON.stringify(titles));
    });
    await page.goto(server.url);
    await page.locator("#recommendations li").first().waitFor({ timeout: 60_000 });
    assert.equal(await page.locator("#recommendations .title").first().textContent(), hostile);
    await page.getByRole("combobox", { name: "Add an item" }).fill("img");
    await page.getByRole("option").first().click();
    assert.equal(await page.locator("img").count(), 0);
  });

  for (const [kind, [changes, expected]] of Object.entries(SHOWN)) {
    test(`the page says so: ${kind}`, async () => {
      shown = changes;
      await page.goto(server.url);
      await page.getByRole("alert").waitFor({ timeout: 30_000 });
      assert.match(await page.getByRole("alert").innerText(), expected);
      assert.equal(await page.locator("#main").isVisible(), false);
      assert.equal(await page.locator("#loading").isVisible(), false);
    });
  }
});

function mounts() {
  return Object.fromEntries(Object.keys(CASES).map((kind) => [`/damaged/${kind}/`, demo]));
}
