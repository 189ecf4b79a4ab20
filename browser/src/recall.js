/** The recall network at request time; see llmcdsr_lite/recall.py. */

import { domainIndex } from "./catalogue.js";
import { UsageError } from "./errors.js";
import { dot, topK, unit } from "./vectors.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./bundle_recall.js").Recall} Recall */

/**
 * What items of other domains say in the space of a domain, those that say something.
 *
 * @param {Bundle} bundle
 * @param {Recall} recall its own
 * @param {readonly number[]} rows
 * @param {number} domain
 * @returns {Float32Array[]} m of (H',)
 */
export function said(bundle, recall, rows, domain) {
  return rows.map((row) => says(bundle, recall, row, domain)).filter((vector) => vector.some(Boolean));
}

/**
 * Pooled names, of length 1: `softmax(names . pooler)` weighs them.
 *
 * @param {Recall} recall
 * @param {readonly Float32Array[]} names m of (H',), at least one
 * @param {number} domain whose items are wanted
 * @param {boolean} weigh use the pooler; if not, it is the mean
 * @returns {Float32Array} (H',)
 */
export function direction(recall, names, domain, weigh) {
  const { hidden, poolers } = recall;
  const logits = names.map((name) => (weigh ? dot(name, 0, poolers, domain * hidden, hidden) : 0)); // (m,)
  const highest = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - highest)); // (m,)
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const pooled = new Float64Array(hidden);
  names.forEach((name, i) => {
    for (let h = 0; h < hidden; h++) pooled[h] += (weights[i] / total) * name[h];
  });
  return unit(Float32Array.from(pooled));
}

/**
 * Cosine of a direction to the item vectors `start <= row < stop`.
 *
 * @param {Recall} recall
 * @param {Float32Array} of (H',), of length 1
 * @param {number} start
 * @param {number} stop
 * @returns {Float32Array} (stop - start,)
 */
export function cosines(recall, of, start, stop) {
  const { items, hidden } = recall;
  const found = new Float32Array(Math.max(0, stop - start));
  for (let i = 0; i < found.length; i++) found[i] = dot(of, 0, items, (start + i) * hidden, hidden);
  return found;
}

/**
 * The k items of a domain with the highest cosine.
 *
 * @param {Recall} recall
 * @param {Float32Array} of (H',), of length 1
 * @param {import("./catalogue.js").Domain} domain
 * @param {number} k
 * @returns {{rows: number[], similarities: number[]}} (k,) each, most similar first
 */
export function nearest(recall, of, domain, k) {
  const similarities = cosines(recall, of, domain.start, domain.stop);
  const places = topK(similarities, k);
  return {
    rows: places.map((place) => place + domain.start),
    similarities: places.map((place) => similarities[place]),
  };
}

/** Vectors of names that a caller gives: ids or titles of items. There is no encoder for other text. */
export class NameVectors {
  /** @type {Map<number, Float32Array>[]} by row, for each domain */
  #known;

  /**
   * @param {Bundle} bundle
   * @param {Recall} recall its own
   */
  constructor(bundle, recall) {
    this.bundle = bundle;
    this.recall = recall;
    this.#known = bundle.domains.map(() => new Map());
    this.rowsOfTitles = bundle.domains.map((domain) => {
      const rows = new Map();
      for (let row = domain.start; row < domain.stop; row++) {
        const title = bundle.titles[row - 1];
        if (title && !rows.has(title)) rows.set(title, row);
      }
      return rows;
    });
  }

  /**
   * Vectors in the space of a domain; a name that says nothing has none.
   *
   * An item of the domain itself stands for its item vector, one of another domain for what it says, both
   * made as long as a projected title is on average.
   *
   * @param {readonly string[]} names
   * @param {number} domain
   * @returns {Float32Array[]} m of (H',)
   * @throws {UsageError} if one is neither the id nor the title of an item
   */
  vectors(names, domain) {
    return names.map((name) => this.#vector(this.#row(name, domain), domain)).filter((v) => v.some(Boolean));
  }

  /**
   * What an item says in the space of a domain; an explanation asks for the same items many times.
   *
   * @param {number} row
   * @param {number} domain
   * @returns {Float32Array} (H',)
   */
  #vector(row, domain) {
    const known = this.#known[domain].get(row);
    if (known) return known;
    const { bundle, recall } = this;
    const isOwn = domainIndex(bundle, row) === domain;
    const said = isOwn ? vectorOf(recall.items, row, recall.hidden) : says(bundle, recall, row, domain);
    const vector = unit(said).map((value) => value * recall.titleLengths[domain]);
    this.#known[domain].set(row, vector);
    return vector;
  }

  /**
   * Row of the item with that id, or else that title, preferably one of the domain.
   *
   * @param {string} name
   * @param {number} domain
   * @returns {number}
   */
  #row(name, domain) {
    const titles = this.rowsOfTitles;
    const ofTitle = titles[domain].get(name) ?? titles.find((ofDomain) => ofDomain.has(name))?.get(name);
    const row = this.bundle.rowOfId.get(name) ?? ofTitle;
    if (row === undefined) {
      throw new UsageError(
        `pseudo: '${name}' is neither the id nor the title of an item, and there is no encoder for free text`,
      );
    }
    return row;
  }
}

/**
 * What an item says in the space of a domain that it is not of.
 *
 * @param {Bundle} bundle
 * @param {Recall} recall its own
 * @param {number} row
 * @param {number} domain
 * @returns {Float32Array} (H',), a view
 */
function says(bundle, { names, hidden }, row, domain) {
  const nRows = bundle.ids.length + 1;
  return vectorOf(names, slot(domainIndex(bundle, row), domain) * nRows + row, hidden);
}

/**
 * Place in `Recall.names` of what items of a domain say of another one, both by index.
 *
 * @param {number} domain
 * @param {number} target
 * @returns {number}
 */
function slot(domain, target) {
  return target > domain ? target - 1 : target;
}

/**
 * @param {Float32Array} table (rows, n)
 * @param {number} row
 * @param {number} n
 * @returns {Float32Array} (n,), a view
 */
function vectorOf(table, row, n) {
  return table.subarray(row * n, (row + 1) * n);
}
