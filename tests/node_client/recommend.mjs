/**
 * A bundle, or a standalone graph, answers requests in Node.js; written from docs/format.md.
 *
 *     node recommend.mjs BUNDLE             requests from standard input, answers to standard output
 *     node recommend.mjs BUNDLE GRAPH.onnx  the same, by the standalone graph
 *
 * A request is a line of JSON: {"history": [ids], "domain": name, names or null, "k": number}; an answer is
 * {"rows": [...], "ids": [...], "scores": [...]}.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import ort from "onnxruntime-node";

const TYPES = { "<f4": Float32Array, "<i8": BigInt64Array, "<i4": Int32Array };
const int64 = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);

/** Array of a .npy file: its data, flat. */
function readArray(bytes) {
  const start = 10 + bytes.readUInt16LE(8);
  const Type = TYPES[/'descr': '(...)'/.exec(bytes.toString("latin1", 10, start))[1]];
  return new Type(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length));
}

/** Files of a bundle, checked for their size and hash, and what they say of domains and mix. */
function readBundle(folder) {
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  if (config.format !== "llmcdsr-bundle" || config.format_version !== 1)
    throw new Error(`${folder}: another format`);
  const arrays = {};
  for (const [name, { bytes, sha256 }] of Object.entries(config.files)) {
    const content = readFileSync(join(folder, name));
    if (content.length !== bytes || createHash("sha256").update(content).digest("hex") !== sha256) {
      throw new Error(`${join(folder, name)}: damaged or changed`);
    }
    if (/^(item_vectors|item_counts|next_\w+|recall_(names|items|poolers))\.npy$/.test(name)) {
      arrays[name.slice(0, -4)] = readArray(content);
    }
  }
  let stop = 1;
  const domains = config.domains.map(({ name, items }) => ({ name, start: stop, stop: (stop += items) }));
  const ids = JSON.parse(readFileSync(join(folder, "item_ids.json"), "utf8"));
  const nothing = { next: 0, repeat: 0, recent: 0, popular: 0, similar: 0, inserted: 0 };
  const noMix = { warm: nothing, cold: nothing, offset: 0, offset_last: 0, exclude_seen: true };
  return {
    ...arrays,
    domains,
    ids,
    nRows: ids.length + 1,
    rowOf: new Map(ids.map((id, i) => [id, i + 1])),
    mix: config.mix ?? domains.map(() => noMix),
    width: config.model.hidden * (config.model.members ?? 1),
    maxLength: config.model.max_length,
    recallWidth: config.recall?.hidden,
  };
}

/** Dot product of n values of a, and of b from `offset` on. */
function dot(a, b, offset, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[i] * b[offset + i];
  return sum;
}

/** Rows by falling score, ties by row, k at most. */
const best = (scores, k) =>
  [...scores].sort(([row, score], [other, beside]) => beside - score || row - other).slice(0, k);

const rowsOf = ({ start, stop }) => Array.from({ length: stop - start }, (_, i) => start + i);

class Client {
  constructor(bundle, encoder) {
    Object.assign(this, bundle);
    this.encoder = encoder;
    this.of = (row) => this.domains.findIndex(({ start, stop }) => start <= row && row < stop);
  }

  async represent(rows) {
    const newest = int64(rows.slice(-this.maxLength)).reshape([1, Math.min(rows.length, this.maxLength)]);
    return (await this.encoder.run({ item_rows: newest })).user_representation.data;
  }

  /** The pooled names of a history for a domain, of length 1; null where its items say nothing. */
  direction(history, target) {
    const n = this.recallWidth;
    const said = history.slice(-this.maxLength).flatMap((row) => {
      const place = (target - (target > this.of(row) ? 1 : 0)) * this.nRows + row;
      const vector = this.recall_names.subarray(place * n, (place + 1) * n);
      return vector.some(Boolean) ? [vector] : [];
    });
    if (!said.length) return null;
    const weighs = this.mix[target].source === "titles";
    const logits = said.map((vector) => (weighs ? dot(vector, this.recall_poolers, target * n, n) : 0));
    const weights = logits.map((logit) => Math.exp(logit - Math.max(...logits)));
    const pooled = Array.from({ length: n }, (_, i) =>
      said.reduce((sum, v, j) => sum + weights[j] * v[i], 0),
    );
    const length = Math.hypot(...pooled) || 1;
    return pooled.map((value) => value / length);
  }

  /** What the sparse experts add, by row. */
  sparse(history, target, w) {
    const { start, stop } = this.domains[target];
    const [counts, times, ages] = [new Map(), new Map(), new Map()];
    history.forEach((row, i) => {
      const age = history.length - 1 - i;
      if (start <= row && row < stop) {
        times.set(row, (times.get(row) ?? 0) + 1);
        ages.set(row, age);
      }
      if (!w.next || age >= 20) return;
      const place = target * this.nRows + row;
      for (let n = Number(this.next_starts[place]); n < Number(this.next_starts[place + 1]); n++) {
        const near = this.next_rows[n];
        counts.set(near, (counts.get(near) ?? 0) + 0.8 ** age * this.next_weights[n]);
      }
    });
    return (row) =>
      w.next * Math.log1p(20 * (counts.get(row) ?? 0)) +
      (times.has(row) ? w.repeat * Math.log1p(times.get(row)) + w.recent * 0.9 ** ages.get(row) : 0);
  }

  /** Scores of all rows of a domain: pairs of row and score. */
  async scores(history, target, asked, user) {
    const isWarm = history.some((row) => this.of(row) === target);
    const w = isWarm ? this.mix[target].warm : this.mix[target].cold;
    const rows = rowsOf(this.domains[target]);
    const direction = !isWarm && (w.similar || w.inserted) ? this.direction(history, target) : null;
    const cosines = new Map();
    if (direction) {
      const n = this.recallWidth;
      for (const row of rows) cosines.set(row, Math.fround(dot(direction, this.recall_items, row * n, n)));
    }
    let f = user;
    if (direction && w.inserted && asked.length === 1) {
      const recalled = best(cosines, this.mix[target].n_recalled).map(([row]) => row);
      const g = await this.represent([...recalled.reverse(), ...history.slice(-this.maxLength)]);
      f = user.map((value, i) => value + w.inserted * (g[i] - value));
    }
    const offset = (t) => this.mix[t].offset + (this.of(history.at(-1)) === t ? this.mix[t].offset_last : 0);
    const added = this.sparse(history, target, w);
    return rows.map((row) => [
      row,
      Math.fround(
        dot(f, this.item_vectors, row * this.width, this.width) +
          added(row) +
          w.popular * Math.log1p(Number(this.item_counts[row])) +
          w.similar * (cosines.get(row) ?? 0) +
          offset(target) -
          offset(asked[0]),
      ),
    ]);
  }

  async rank(history, asked, k) {
    let scores;
    if (history.length) {
      const user = await this.represent(history);
      scores = (await Promise.all(asked.map((t) => this.scores(history, t, asked, user)))).flat();
    } else {
      const rows = asked.flatMap((t) => rowsOf(this.domains[t]));
      const total = rows.reduce((sum, row) => sum + Number(this.item_counts[row]), 0) || 1;
      scores = rows.map((row) => [row, Math.fround(Number(this.item_counts[row]) / total)]);
    }
    const seen = new Set(leftOut(this, history));
    return best(
      scores.filter(([row]) => !seen.has(row)),
      k,
    );
  }
}

/** Items of the history that are not recommended. */
const leftOut = ({ domains, mix }, history) =>
  history.filter((row) => mix[domains.findIndex(({ stop }) => row < stop)].exclude_seen);

const [folder, graph] = process.argv.slice(2);
const bundle = readBundle(folder);
const session = await ort.InferenceSession.create(graph ?? join(folder, "recommender.onnx"), {
  logSeverityLevel: 4,
});
const client = new Client(bundle, session);
for await (const line of createInterface({ input: process.stdin })) {
  const { history: ids, domain, k } = JSON.parse(line);
  const history = ids.flatMap((id) => bundle.rowOf.get(id) ?? []);
  const names = domain === null ? bundle.domains.map(({ name }) => name) : [domain].flat();
  const asked = bundle.domains.flatMap(({ name }, index) => (names.includes(name) ? [index] : []));
  if (!asked.length || asked.length < new Set(names).size) throw new Error(`no such domain: ${domain}`);
  let found;
  if (graph) {
    const excluded = int64(leftOut(bundle, history));
    const inputs = { history: int64(history), excluded, domains: int64(asked), k: int64([k]) };
    const { rows, scores } = await session.run(inputs);
    found = Array.from(rows.data, (row, i) => [Number(row), scores.data[i]]);
  } else {
    found = await client.rank(history, asked, k);
  }
  const rows = found.map(([row]) => row);
  const answer = {
    rows,
    ids: rows.map((row) => bundle.ids[row - 1]),
    scores: found.map(([, score]) => score),
  };
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
