/** From histories and pseudo items to ranked item rows; see llmcdsr_lite/ranking.py. */

import { domainIndex } from "./catalogue.js";
import { addMix, isLeftOut } from "./mixture.js";
import { sequence } from "./pseudo.js";
import { cosines } from "./recall.js";
import { dot, topK } from "./vectors.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./catalogue.js").Domain} Domain */
/** @typedef {import("./pseudo.js").PseudoItems} PseudoItems */

/**
 * @typedef {object} Ranked
 * @property {number[]} rows best first, ties by row
 * @property {number[]} scores of the same length
 * @property {boolean} fallback whether these are the most popular items
 */

/** Ranks items for histories of item rows. */
export class Ranking {
  /**
   * @param {Bundle} bundle
   * @param {import("./encoder.js").Encoder} encoder
   */
  constructor(bundle, encoder) {
    this.bundle = bundle;
    this.encoder = encoder;
  }

  /**
   * The best items of some domains, the most popular ones where there is nothing to go by.
   *
   * @param {readonly number[]} history
   * @param {readonly PseudoItems[]} pseudo
   * @param {number} k
   * @param {readonly number[]} domains indices of those that are asked for, in order
   * @param {boolean | null} excludeSeen leave out the items of the history; null does as the bundle has it
   * @returns {Promise<Ranked>}
   */
  async rank(history, pseudo, k, domains, excludeSeen) {
    const fallback = !history.length && !pseudo.length;
    const user = await this.represent([history], [pseudo]);
    const asked = domains.map((index) => this.bundle.domains[index]);
    const [{ start }, { stop }] = [asked[0], asked[asked.length - 1]];
    const scores = new Float32Array(stop - start).fill(-Infinity); // so it stays between domains asked for
    const ofEach = fallback
      ? this.#popularity(asked)
      : asked.map((one) => this.#scores(user, history, pseudo, one.start, one.stop, domains[0]));
    asked.forEach((domain, i) => scores.set(ofEach[i], domain.start - start));
    for (const row of history) {
      if (start <= row && row < stop && isLeftOut(this.bundle, row, excludeSeen)) {
        scores[row - start] = -Infinity;
      }
    }
    const places = topK(scores, k);
    return {
      rows: places.map((place) => place + start),
      scores: places.map((place) => scores[place]),
      fallback,
    };
  }

  /**
   * Score of one item after each of n histories.
   *
   * @param {number} row
   * @param {readonly (readonly number[])[]} histories n
   * @param {readonly (readonly PseudoItems[])[]} pseudo n
   * @param {number} first index of the first domain that is asked for
   * @returns {Promise<number[]>} (n,)
   */
  async scores(row, histories, pseudo, first) {
    const users = await this.represent(histories, pseudo);
    const { hidden } = this.bundle;
    return histories.map((history, i) => {
      const user = users.subarray(i * hidden, (i + 1) * hidden);
      return this.#scores(user, history, pseudo[i], row, row + 1, first)[0];
    });
  }

  /**
   * User representations, moved by what is inserted; zero where there is nothing.
   *
   * @param {readonly (readonly number[])[]} histories n
   * @param {readonly (readonly PseudoItems[])[]} pseudo n
   * @returns {Promise<Float32Array>} (n, H)
   */
  async represent(histories, pseudo) {
    const { hidden, maxLength } = this.bundle;
    const users = await this.#represent(histories);
    const inserted = pseudo.flatMap((recalled, i) =>
      recalled.filter((items) => items.weights.inserted).map((items) => ({ items, i })),
    );
    if (!inserted.length) return users;
    const moved = await this.#represent(
      inserted.map(({ items, i }) => sequence(histories[i], items, maxLength)),
    );
    inserted.forEach(({ items, i }, n) => {
      for (let column = 0; column < hidden; column++) {
        const place = i * hidden + column;
        users[place] += items.weights.inserted * (moved[n * hidden + column] - users[place]);
      }
    });
    return users;
  }

  /**
   * @param {readonly (readonly number[])[]} sequences n
   * @returns {Promise<Float32Array>} (n, H)
   */
  async #represent(sequences) {
    const { hidden, maxLength } = this.bundle;
    const users = new Float32Array(sequences.length * hidden);
    const filled = sequences.flatMap((rows, i) => (rows.length ? [i] : []));
    if (filled.length) {
      const found = await this.encoder.represent(filled.map((i) => sequences[i].slice(-maxLength)));
      filled.forEach((i, n) => users.set(found.subarray(n * hidden, (n + 1) * hidden), i * hidden));
    }
    return users;
  }

  /**
   * Scores of the rows `start <= row < stop` of one domain, with all that is added to them.
   *
   * @param {Float32Array} user (H,)
   * @param {readonly number[]} history
   * @param {readonly PseudoItems[]} pseudo
   * @param {number} start
   * @param {number} stop
   * @param {number} first index of the first domain that is asked for
   * @returns {Float32Array} (stop - start,)
   */
  #scores(user, history, pseudo, start, stop, first) {
    const { itemVectors, hidden, recall } = this.bundle;
    const index = domainIndex(this.bundle, start);
    const scores = new Float32Array(stop - start);
    for (let row = start; row < stop; row++) {
      scores[row - start] = dot(user, 0, itemVectors, row * hidden, hidden);
    }
    for (const { domain, weights, direction } of pseudo) {
      if (!recall || domain !== index || !weights.similar) continue;
      cosines(recall, direction, start, stop).forEach((cosine, i) => {
        scores[i] += weights.similar * cosine;
      });
    }
    addMix(this.bundle, history, scores, start, index, first);
    return scores;
  }

  /**
   * Share of the training interactions of the domains asked for, of the items of each.
   *
   * @param {readonly Domain[]} domains
   * @returns {Float32Array[]}
   */
  #popularity(domains) {
    const counts = domains.map(({ start, stop }) => this.bundle.itemCounts.subarray(start, stop));
    const total = counts.reduce((sum, some) => some.reduce((a, b) => a + b, sum), 0);
    return counts.map((some) => Float32Array.from(some, (count) => count / Math.max(1, total)));
  }
}
