/** The class that a page uses; it answers as `llmcdsr_lite.Recommender` does. */

import { readBundle } from "./bundle.js";
import { domainIndex, wantedDomains } from "./catalogue.js";
import { Encoder, loadRuntime } from "./encoder.js";
import { UsageError } from "./errors.js";
import { explain } from "./explanation.js";
import { PseudoRecall } from "./pseudo.js";
import { Ranking } from "./ranking.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./pseudo.js").Asked} Asked */
/** @typedef {import("./explanation.js").Explanation} Explanation */

/**
 * One recommended item; a higher score is better.
 *
 * @typedef {object} Recommendation
 * @property {string} id
 * @property {string} title
 * @property {string} domain
 * @property {number} score
 */

/**
 * @typedef {object} Recommendations
 * @property {Recommendation[]} items best first
 * @property {string[]} unknownItems ids of the history that are not in the catalogue and were skipped
 * @property {boolean} fallback true if there was nothing to go by: the items are the most popular ones, and
 *   their score is their share of the training interactions of the domains asked for
 * @property {Explanation | null} explanation where it was asked for
 */

/**
 * @typedef {object} Options
 * @property {string | readonly string[] | null} [domain] recommend items of this domain, or of these, alone;
 *   null, the default, of all
 * @property {number} [k] how many items; fewer come back where the filters leave fewer
 * @property {boolean | null} [excludeSeen] leave out the items of the history (all of it, before any cut);
 *   null, the default, does as the bundle has it for each domain
 * @property {Asked} [pseudo] "auto": as the bundle's mix weighs them for a history without an item of a domain
 *   that is asked for; "off"; or names (ids or titles of items) to recall pseudo items of the one domain for
 * @property {boolean} [explain] explain the first recommendation
 */

/** Recommends the next items for a history of items of one or more domains. */
export class Recommender {
  /**
   * @param {Bundle} bundle
   * @param {Encoder} encoder
   */
  constructor(bundle, encoder) {
    this.bundle = bundle;
    this.encoder = encoder;
    this.ranking = new Ranking(bundle, encoder);
    this.recaller = new PseudoRecall(bundle);
  }

  /**
   * Load a bundle, after checking every file that is used.
   *
   * @param {URL} folder ends with a slash
   * @returns {Promise<Recommender>}
   * @throws {import("./errors.js").BundleError} if it is incomplete or damaged
   */
  static async load(folder) {
    const [runtime, bundle] = await Promise.allSettled([loadRuntime(), readBundle(folder)]);
    if (bundle.status === "rejected") throw bundle.reason;
    if (runtime.status === "rejected") throw runtime.reason;
    return new Recommender(bundle.value, await Encoder.create(runtime.value, bundle.value));
  }

  /**
   * Rank the items that come next for one user.
   *
   * @param {readonly string[]} history item ids, oldest first; unknown ones are skipped
   * @param {Options} options
   * @returns {Promise<Recommendations>}
   * @throws {UsageError} if there is no such domain, k is below 1, or names are given without one domain, to a
   *   bundle without a recall network, or that are no item's
   */
  async recommend(history, options = {}) {
    const { domain = null, k = 10, excludeSeen = null, pseudo: asked = "auto" } = options;
    if (!Number.isInteger(k) || k < 1) throw new UsageError(`k must be at least 1, found ${k}`);
    const { bundle } = this;
    const rows = history.flatMap((id) => bundle.rowOfId.get(id) ?? []);
    const unknownItems = history.filter((id) => !bundle.rowOfId.has(id));
    const domains = wantedDomains(bundle, domain);
    const pseudo = this.recaller.recall(rows, domains, asked, options.explain);
    const ranked = await this.ranking.rank(rows, pseudo, k, domains, excludeSeen);
    const top = ranked.fallback ? 0 : (ranked.rows[0] ?? 0);
    const request = { history: rows, domains, asked };
    return {
      items: ranked.rows.map((row, i) => ({
        id: bundle.ids[row - 1],
        title: bundle.titles[row - 1],
        domain: bundle.domains[domainIndex(bundle, row)].name,
        score: ranked.scores[i],
      })),
      unknownItems,
      fallback: ranked.fallback,
      explanation: options.explain
        ? await explain(bundle, this.ranking, this.recaller, request, pseudo, top)
        : null,
    };
  }

  /** Free the model's memory; nothing can be recommended afterwards. */
  async close() {
    await this.encoder.release();
  }
}
