/** From histories and pseudo items to ranked item rows; see llmcdsr_lite/ranking.py. */

import { addMix, isLeftOut } from "./mixture.js";
import { sequence } from "./pseudo.js";
import { cosines } from "./recall.js";
import { dot, topK } from "./vectors.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
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
   * The best items of the rows `start <= row < stop`, the most popular ones where there is nothing to go by.
   *
   * @param {readonly number[]} history
   * @param {PseudoItems | null} pseudo
   * @param {number} k
   * @param {number} start
   * @param {number} stop
   * @param {boolean | null} excludeSeen leave out the items of the history; null does as the bundle has it
   * @returns {Promise<Ranked>}
   */
  async rank(history, pseudo, k, start, stop, excludeSeen) {
    const fallback = !history.length && !pseudo;
    const scores = fallback
      ? this.#popularity(start, stop)
      : this.#scores(await this.represent([history], [pseudo]), pseudo, start, stop); // (stop - start,)
    if (!fallback) addMix(this.bundle, history, scores, start, stop, this.#both(start, stop));
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
   * @param {readonly (PseudoItems | null)[]} pseudo n
   * @param {boolean} both whether both domains are asked for
   * @returns {Promise<number[]>} (n,)
   */
  async scores(row, histories, pseudo, both) {
    const users = await this.represent(histories, pseudo);
    const { hidden } = this.bundle;
    return pseudo.map((items, i) => {
      const scores = this.#scores(users.subarray(i * hidden, (i + 1) * hidden), items, row, row + 1);
      addMix(this.bundle, histories[i], scores, row, row + 1, both);
      return scores[0];
    });
  }

  /**
   * Whether the rows `start <= row < stop` are of both domains.
   *
   * @param {number} start
   * @param {number} stop
   * @returns {boolean}
   */
  #both(start, stop) {
    const boundary = this.bundle.domains[1].start;
    return start < boundary && boundary < stop;
  }

  /**
   * User representations, moved by what is inserted; zero where there is nothing.
   *
   * @param {readonly (readonly number[])[]} histories n
   * @param {readonly (PseudoItems | null)[]} pseudo n
   * @returns {Promise<Float32Array>} (n, H)
   */
  async represent(histories, pseudo) {
    const { hidden, maxLength } = this.bundle;
    const users = await this.#represent(histories);
    const inserted = pseudo.flatMap((items, i) => (items?.weights.inserted ? [{ items, i }] : []));
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
   * Scores of the rows `start <= row < stop`, with what pseudo items add to them.
   *
   * @param {Float32Array} user (H,)
   * @param {PseudoItems | null} pseudo
   * @param {number} start
   * @param {number} stop
   * @returns {Float32Array} (stop - start,)
   */
  #scores(user, pseudo, start, stop) {
    const { itemVectors, hidden, recall, domains } = this.bundle;
    const scores = new Float32Array(stop - start);
    for (let row = start; row < stop; row++) {
      scores[row - start] = dot(user, 0, itemVectors, row * hidden, hidden);
    }
    if (!recall || !pseudo?.weights.similar) return scores;
    const domain = domains[pseudo.domain];
    const [first, last] = [Math.max(start, domain.start), Math.min(stop, domain.stop)];
    cosines(recall, pseudo.direction, first, last).forEach((cosine, i) => {
      scores[first - start + i] += pseudo.weights.similar * cosine;
    });
    return scores;
  }

  /**
   * Share of the training interactions of the rows asked for.
   *
   * @param {number} start
   * @param {number} stop
   * @returns {Float32Array} (stop - start,)
   */
  #popularity(start, stop) {
    const counts = this.bundle.itemCounts.subarray(start, stop);
    const total = Math.max(
      1,
      counts.reduce((sum, count) => sum + count, 0),
    );
    return Float32Array.from(counts, (count) => count / total);
  }
}
