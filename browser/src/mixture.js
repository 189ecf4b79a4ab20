/** What the experts of the mix that need no pseudo items add to scores; see llmcdsr_lite/mix. */

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
 * @param {0 | 1} index of the domain
 * @returns {Map<number, Experts>} by item row
 */
export function experts(bundle, history, index) {
  const { start, stop } = bundle.domains[index];
  const nRows = bundle.domains[1].stop;
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
 * Add what these experts and offsets give to the scores of the rows `start <= row < stop`, in place.
 *
 * Where both domains are asked for, the scores of the second are shifted by how much its offset is above that
 * of the first.
 *
 * @param {Bundle} bundle
 * @param {readonly number[]} history
 * @param {Float32Array} scores (stop - start,)
 * @param {number} start
 * @param {number} stop
 * @param {boolean} both whether both domains are asked for
 */
export function addMix(bundle, history, scores, start, stop, both) {
  const { domains, mix } = bundle;
  for (const index of /** @type {const} */ ([0, 1])) {
    const domain = domains[index];
    if (start >= domain.stop || stop <= domain.start) continue;
    const own = history.some((row) => domain.start <= row && row < domain.stop);
    const weights = own ? mix.domains[index].warm : mix.domains[index].cold;
    if (weights.popular) {
      for (let row = Math.max(start, domain.start); row < Math.min(stop, domain.stop); row++) {
        scores[row - start] += weights.popular * Math.log1p(bundle.itemCounts[row]);
      }
    }
    if (!weights.next && !weights.repeat && !weights.recent) continue;
    for (const [row, value] of experts(bundle, history, index)) {
      if (row < start || row >= stop) continue;
      scores[row - start] +=
        weights.next * value.next + weights.repeat * value.repeat + weights.recent * value.recent;
    }
  }
  if (!both) return;
  const last = history.at(-1) ?? 0;
  const [first, second] = mix.domains.map(
    ({ offset, offsetLast }, i) =>
      offset + (domains[i].start <= last && last < domains[i].stop ? offsetLast : 0),
  );
  const shift = second - first;
  if (!shift) return;
  for (let row = Math.max(start, domains[1].start); row < stop; row++) scores[row - start] += shift;
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
  return excludeSeen ?? bundle.mix.domains[row >= bundle.domains[1].start ? 1 : 0].excludeSeen;
}
