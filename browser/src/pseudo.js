/** Pseudo items at request time: for whom, and which; see llmcdsr_lite/pseudo.py. */

import { domainIndex } from "./bundle.js";
import { recalls } from "./bundle_mix.js";
import { UsageError } from "./errors.js";
import { direction, NameVectors, nearest, said } from "./recall.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./bundle_mix.js").ExpertWeights} ExpertWeights */
/** @typedef {"auto" | "off" | readonly string[]} Asked what a caller may ask for */

/**
 * Pseudo items for one history.
 *
 * @typedef {object} PseudoItems
 * @property {0 | 1} domain index of the domain that they are of
 * @property {Pick<ExpertWeights, "similar" | "inserted">} weights
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
   * domain that a history has no item of, and nothing is inserted: it would change the scores of the other
   * domain, too.
   *
   * @param {readonly number[]} history item rows
   * @param {0 | 1 | null} domain that is asked for
   * @param {Asked} asked
   * @param {boolean} rowsAlways recall items even where only the direction is needed
   * @returns {PseudoItems | null}
   */
  recall(history, domain, asked, rowsAlways = false) {
    const { recall, mix } = this.bundle;
    const auto = typeof asked === "string";
    if (!recall || !this.names) {
      if (auto) return null;
      throw new UsageError("pseudo: this bundle has no recall network, so names cannot be used");
    }
    const index = auto ? this.#missingDomain(history, domain, asked) : domain;
    if (index === null) {
      if (auto) return null;
      throw new UsageError("pseudo: names need the domain that is asked for");
    }
    const { cold, named, source, nRecalled } = mix.domains[index];
    const weights = auto ? { ...cold, inserted: domain === null ? 0 : cold.inserted } : named;
    if (!recalls(weights)) return null;
    const newest = history.slice(-this.bundle.maxLength);
    const vectors = auto ? said(recall, newest) : this.names.vectors(asked, index);
    if (!vectors.length) return null;
    const pooled = direction(recall, vectors, index, !auto || source === "titles");
    const found =
      rowsAlways || weights.inserted
        ? nearest(recall, pooled, this.bundle.domains[index], nRecalled)
        : { rows: [], similarities: [] };
    return { domain: index, weights, direction: pooled, ...found };
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
 * The history with pseudo items before it, the least similar first, cut to the newest.
 *
 * @param {readonly number[]} history item rows
 * @param {PseudoItems} pseudo
 * @param {number} maxLength
 * @returns {number[]}
 */
export function sequence(history, pseudo, maxLength) {
  return [...[...pseudo.rows].reverse(), ...history.slice(-maxLength)].slice(-maxLength);
}

/**
 * How many of the pseudo items are in `sequence`: the most similar.
 *
 * @param {number} historyLength
 * @param {PseudoItems} pseudo
 * @param {number} maxLength
 * @returns {number}
 */
export function nSeen(historyLength, pseudo, maxLength) {
  return Math.max(0, Math.min(pseudo.rows.length, maxLength - historyLength));
}

/**
 * What is done with them, as Python says it.
 *
 * @param {PseudoItems} pseudo
 * @returns {string}
 */
export function inWords({ weights, rows }) {
  const said = [];
  if (weights.inserted) {
    const share = weights.inserted === 1 ? "" : `, weight ${short(weights.inserted)}`;
    said.push(`insert ${rows.length} items before the history${share}`);
  }
  if (weights.similar) said.push(`add ${short(weights.similar)} x cosine to the scores`);
  return said.join(" and ");
}

/**
 * A weight as Python's `:.3g` has it.
 *
 * @param {number} weight
 * @returns {string}
 */
function short(weight) {
  const [digits, exponent] = weight.toExponential(2).split("e");
  const power = Number(exponent);
  if (-4 <= power && power < 3) return String(Number(weight.toPrecision(3)));
  return `${Number(digits)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}
