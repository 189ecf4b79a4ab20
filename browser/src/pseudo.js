/** Pseudo items at request time: for whom, and which; see llmcdsr_lite/pseudo.py. */

import { recalls } from "./bundle_mix.js";
import { domainIndex } from "./catalogue.js";
import { UsageError } from "./errors.js";
import { direction, NameVectors, nearest, said } from "./recall.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./bundle_mix.js").PseudoWeights} PseudoWeights */
/** @typedef {"auto" | "off" | readonly string[]} Asked what a caller may ask for */

/**
 * Pseudo items for one history.
 *
 * @typedef {object} PseudoItems
 * @property {number} domain index of the domain that they are of
 * @property {PseudoWeights} weights
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
   * Pseudo items for a history, at most those of each domain that is asked for.
   *
   * `auto` gives some to a history that has items, but none of a domain that is asked for. Where several are,
   * nothing is inserted: it would change the scores of the others, too.
   *
   * @param {readonly number[]} history item rows
   * @param {readonly number[]} domains indices of those that are asked for
   * @param {Asked} asked
   * @param {boolean} rowsAlways recall items even where only the direction is needed
   * @returns {PseudoItems[]}
   * @throws {UsageError} if there are names and not one domain alone, or no recall network
   */
  recall(history, domains, asked, rowsAlways = false) {
    const { bundle, names } = this;
    const { recall } = bundle;
    const auto = typeof asked === "string";
    if (!recall || !names) {
      if (auto) return [];
      throw new UsageError("pseudo: this bundle has no recall network, so names cannot be used");
    }
    return this.#namesOf(history, domains, asked, recall, names).map(({ index, weights, vectors }) => {
      const { source, nRecalled } = bundle.mix.domains[index];
      const pooled = direction(recall, vectors, index, !auto || source === "titles");
      const found =
        rowsAlways || weights.inserted
          ? nearest(recall, pooled, bundle.domains[index], nRecalled)
          : { rows: [], similarities: [] };
      return { domain: index, weights, direction: pooled, ...found };
    });
  }

  /**
   * What is recalled for: index of the domain, weights and names (m, H'), at least one.
   *
   * @param {readonly number[]} history
   * @param {readonly number[]} domains
   * @param {Asked} asked
   * @param {import("./bundle_recall.js").Recall} recall
   * @param {NameVectors} names
   * @returns {{index: number, weights: PseudoWeights, vectors: Float32Array[]}[]}
   */
  #namesOf(history, domains, asked, recall, names) {
    const { bundle } = this;
    if (typeof asked !== "string") {
      if (domains.length !== 1) throw new UsageError("pseudo: names need the one domain that is asked for");
      const [index] = domains;
      const vectors = names.vectors(asked, index);
      return vectors.length ? [{ index, weights: bundle.mix.domains[index].named, vectors }] : [];
    }
    if (asked === "off") return [];
    const hasItemsOf = new Set(history.map((row) => domainIndex(bundle, row)));
    const newest = history.slice(-bundle.maxLength);
    return domains.flatMap((index) => {
      const { similar, inserted } = bundle.mix.domains[index].cold;
      const weights = { similar, inserted: domains.length === 1 ? inserted : 0 };
      if (hasItemsOf.has(index) || !recalls(weights)) return [];
      const vectors = said(bundle, recall, newest, index);
      return vectors.length ? [{ index, weights, vectors }] : [];
    });
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
