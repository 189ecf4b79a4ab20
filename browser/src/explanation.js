/** Why an item was recommended: its pseudo items, and each history item left out in turn. */

import { inWords, nSeen } from "./pseudo.js";

/** @typedef {import("./pseudo.js").PseudoItems} PseudoItems */

/**
 * An item that was recalled for a history.
 *
 * @typedef {object} PseudoItem
 * @property {string} id
 * @property {string} title
 * @property {number} similarity its cosine to the pooled names
 * @property {boolean} inserted whether the recommender saw it; a long history leaves no room for any
 */

/**
 * What an item of the history did for the first recommendation.
 *
 * @typedef {object} Influence
 * @property {string} id
 * @property {string} title
 * @property {number | null} change score of the first recommendation, minus its score without this item; 0
 *   for items older than the model looks back, null where nothing would have been left to go by
 */

/**
 * @typedef {object} Explanation
 * @property {string} setting what was done with pseudo items, in words; where several domains were asked for,
 *   with the name of each
 * @property {PseudoItem[]} pseudo domain after domain, most similar first
 * @property {Influence[]} history oldest first; empty without a recommendation, or for the most popular
 */

/**
 * Explain the first recommendation for one history.
 *
 * @param {import("./bundle.js").Bundle} bundle
 * @param {import("./ranking.js").Ranking} ranking
 * @param {import("./pseudo.js").PseudoRecall} recaller
 * @param {{history: readonly number[], domains: readonly number[], asked: import("./pseudo.js").Asked}} request
 * @param {readonly PseudoItems[]} pseudo those of the answer
 * @param {number} top row of the first recommendation, 0 if the history had no part in it
 * @returns {Promise<Explanation>}
 */
export async function explain(bundle, ranking, recaller, request, pseudo, top) {
  const { history, domains, asked } = request;
  const { maxLength } = bundle;
  /** @type {(row: number) => {id: string, title: string}} */
  const item = (row) => ({ id: bundle.ids[row - 1], title: bundle.titles[row - 1] });
  /** @type {Influence[]} */
  let influences = [];
  if (top) {
    const nOld = Math.max(0, history.length - maxLength);
    const without = history.slice(nOld).map((_, i) => history.filter((_, j) => j !== nOld + i));
    const recalled = without.map((rows) => recaller.recall(rows, domains, asked));
    const [whole, ...scores] = await ranking.scores(
      top,
      [history, ...without],
      [pseudo, ...recalled],
      domains[0],
    );
    influences = history.map((row, i) => {
      const n = i - nOld;
      if (n < 0) return { ...item(row), change: 0 };
      return { ...item(row), change: without[n].length || recalled[n].length ? whole - scores[n] : null };
    });
  }
  const settings = pseudo.map((items) => {
    const name = domains.length === 1 ? "" : `${bundle.domains[items.domain].name}: `;
    return name + inWords(items);
  });
  const described = pseudo.flatMap((items) => {
    const seen = items.weights.inserted ? nSeen(history.length, items, maxLength) : 0;
    return items.rows.map((row, i) => ({
      ...item(row),
      similarity: items.similarities[i],
      inserted: i < seen,
    }));
  });
  return { setting: settings.join("; ") || "off", pseudo: described, history: influences };
}
