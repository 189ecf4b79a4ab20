/** What the experts of the mix that need no pseudo items add to scores; see llmcdsr_lite/mix. */

import { domainIndex } from "./catalogue.js";

const NEXT_SCALE = 20;
const NEXT_ITEMS = 20;
const NEXT_DECAY = 0.8;
const RECENT_DECAY = 0.9;

/** @typedef {import("./bundle.js").Bundle} Bundle */

/**
 * Values of the sparse experts for one item.
 *
 * @typedef {object} Experts
 * @property {number} next
 * @property {number} repeat
 * @property {number} recent
 */

/**
 * Values of the experts for the items of a domain that they touch.
 *
 * @param {Bundle} bundle
 * @param {readonly number[]} history item rows, oldest first
 * @param {number} index of the domain
 * @returns {Map<number, Experts>} by item row
 */
export function experts(bundle, history, index) {
  const { start, stop } = bundle.domains[index];
  const nRows = bundle.ids.length + 1;
  /** @type {Map<number, Experts>} */
  const found = new Map();
  /** @type {(row: number) => Experts} */
  const of = (row) => {
    const known = found.get(row);
    if (known) return known;
    const created = { next: 0, repeat: 0, recent: 0 };
    found.set(row, created);
    return created;
  };
  const { counts } = bundle.mix;
  if (counts) {
    const newest = history.slice(-NEXT_ITEMS);
    newest.forEach((item, i) => {
      const decay = NEXT_DECAY ** (newest.length - 1 - i);
      const place = index * nRows + item;
      for (let n = counts.starts[place]; n < counts.starts[place + 1]; n++) {
        of(counts.rows[n]).next += decay * counts.weights[n];
      }
    });
  }
  history.forEach((row, i) => {
    if (row < start || row >= stop) return;
    const value = of(row);
    value.repeat += 1;
    value.recent = RECENT_DECAY ** (history.length - 1 - i); // the newest place stays
  });
  for (const value of found.values()) {
    value.next = Math.log1p(NEXT_SCALE * value.next);
    value.repeat = Math.log1p(value.repeat);
  }
  return found;
}

/**
 * Add what these experts and offsets give to the scores of rows of one domain, in place.
 *
 * @param {Bundle} bundle
 * @param {readonly number[]} history
 * @param {Float32Array} scores (n,), of the rows `start <= row < start + n`
 * @param {number} start
 * @param {number} index of their domain
 * @param {number} first index of the first domain asked for: scores are shifted by how much the offset of
 *   their domain is above its offset
 */
export function addMix(bundle, history, scores, start, index, first) {
  const { warm, cold } = bundle.mix.domains[index];
  const isWarm = history.some((row) => domainIndex(bundle, row) === index);
  const { next, repeat, recent, popular } = isWarm ? warm : cold;
  const shift = offset(bundle, history, index) - offset(bundle, history, first);
  if (popular || shift) {
    scores.forEach((_, i) => {
      scores[i] += popular * Math.log1p(bundle.itemCounts[start + i]) + shift;
    });
  }
  if (!next && !repeat && !recent) return;
  for (const [row, value] of experts(bundle, history, index)) {
    if (row < start || row >= start + scores.length) continue;
    scores[row - start] += next * value.next + repeat * value.repeat + recent * value.recent;
  }
}

/**
 * Offset of a domain after a history.
 *
 * @param {Bundle} bundle
 * @param {readonly number[]} history
 * @param {number} index of the domain
 * @returns {number}
 */
function offset(bundle, history, index) {
  const mix = bundle.mix.domains[index];
  const isLast = history.length > 0 && domainIndex(bundle, history[history.length - 1]) === index;
  return mix.offset + (isLast ? mix.offsetLast : 0);
}

/**
 * Whether an item of the history is left out.
 *
 * @param {Bundle} bundle
 * @param {number} row
 * @param {boolean | null} excludeSeen null does as the bundle has it for the item's domain
 * @returns {boolean}
 */
export function isLeftOut(bundle, row, excludeSeen) {
  return excludeSeen ?? bundle.mix.domains[domainIndex(bundle, row)].excludeSeen;
}
