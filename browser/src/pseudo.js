/** Pseudo items at request time: for whom, which, and what is made of them; see llmcdsr_lite/pseudo.py. */

import { domainIndex } from "./bundle.js";
import { UsageError } from "./errors.js";
import { direction, NameVectors, nearest, said } from "./recall.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./bundle_recall.js").PseudoSetting} PseudoSetting */
/** @typedef {"auto" | "off" | readonly string[]} Asked what a caller may ask for */

/**
 * Pseudo items for one history.
 *
 * @typedef {object} PseudoItems
 * @property {0 | 1} domain index of the domain that they are of
 * @property {PseudoSetting} setting
 * @property {Float32Array} direction (H',), the pooled names, of length 1
 * @property {number[]} rows (k,), most similar first; empty where nobody asked for them
 * @property {number[]} similarities (k,), cosines
 */

/** Recalls pseudo items for histories. */
export class PseudoRecall {
  /** @param {Bundle} bundle */
  constructor(bundle) {
    this.bundle = bundle;
    this.names = bundle.recall && new NameVectors(bundle, bundle.recall);
  }

  /**
   * Pseudo items for a history, null where it gets none.
   *
   * `auto` gives some to a history that has items, but none of the domain. Without a domain they are of the
   * domain that a history has no item of, and `insert` does not apply: it would change the scores of the
   * other domain, too.
   *
   * @param {readonly number[]} history item rows
   * @param {0 | 1 | null} domain that is asked for
   * @param {Asked} asked
   * @param {boolean} rowsAlways recall items even where only the direction is needed
   * @returns {PseudoItems | null}
   */
  recall(history, domain, asked, rowsAlways = false) {
    const { recall } = this.bundle;
    if (!recall || !this.names) {
      if (typeof asked === "string") return null;
      throw new UsageError("pseudo: this bundle has no recall network, so names cannot be used");
    }
    const newest = history.slice(-this.bundle.maxLength);
    const index = typeof asked === "string" ? this.#missingDomain(newest, domain, asked) : domain;
    if (index === null) {
      if (typeof asked === "string") return null;
      throw new UsageError("pseudo: names need the domain that is asked for");
    }
    const choice = recall.choices[index];
    const auto = typeof asked === "string";
    const setting = auto ? choice.auto : choice.names;
    if (setting.mode === "off" || (auto && setting.mode === "insert" && domain === null)) return null;
    const vectors = auto ? said(recall, newest) : this.names.vectors(asked, index);
    if (!vectors.length) return null;
    const pooled = direction(recall, vectors, index, !auto || choice.source === "titles");
    const wanted = rowsAlways || setting.mode === "insert" || setting.scope === "recalled";
    const found = wanted
      ? nearest(recall, pooled, this.bundle.domains[index], setting.k)
      : { rows: [], similarities: [] };
    return { domain: index, setting, direction: pooled, ...found };
  }

  /**
   * The domain that a history has no item of: the one asked for, or any.
   *
   * @param {readonly number[]} history
   * @param {0 | 1 | null} domain
   * @param {"auto" | "off"} asked
   * @returns {0 | 1 | null}
   */
  #missingDomain(history, domain, asked) {
    if (asked === "off" || !history.length) return null;
    const seen = new Set(history.map((row) => domainIndex(this.bundle, row)));
    if (seen.size === 2) return null;
    const missing = seen.has(0) ? 1 : 0;
    return domain === null || domain === missing ? missing : null;
  }
}

/**
 * What the recommender sees: the history, with the inserted items, if any, cut to the newest.
 *
 * @param {readonly number[]} history item rows
 * @param {PseudoItems | null} pseudo
 * @param {number} maxLength
 * @returns {number[]}
 */
export function sequence(history, pseudo, maxLength) {
  const newest = history.slice(-maxLength);
  if (pseudo?.setting.mode !== "insert") return newest;
  return insertItems(newest, pseudo.rows, pseudo.setting.place).slice(-maxLength);
}

/**
 * How many of the inserted items are left where the sequence is cut; the most similar are.
 *
 * @param {number} historyLength
 * @param {PseudoItems} pseudo
 * @param {number} maxLength
 * @returns {number}
 */
export function nSeen(historyLength, pseudo, maxLength) {
  const real = new Array(Math.min(historyLength, maxLength)).fill(0);
  const ones = pseudo.rows.map(() => 1);
  return insertItems(real, ones, pseudo.setting.place)
    .slice(-maxLength)
    .reduce((sum, one) => sum + one, 0);
}

/**
 * History (n,) with pseudo items (k,), most similar first, put in: (n + k,).
 *
 * `front`: before the history. `spread`: the j-th of them goes before item `floor(j * n / k)`. The least
 * similar comes first.
 *
 * @param {readonly number[]} history
 * @param {readonly number[]} pseudo
 * @param {"front" | "spread"} place
 * @returns {number[]}
 */
export function insertItems(history, pseudo, place) {
  /** @type {number[]} */
  const all = [];
  let next = 0;
  [...pseudo].reverse().forEach((item, j) => {
    const before = place === "spread" ? Math.floor((j * history.length) / pseudo.length) : 0;
    while (next < before) all.push(history[next++]);
    all.push(item);
  });
  return all.concat(history.slice(next));
}
