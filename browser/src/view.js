/** What the page shows of an answer. */

import { recalls } from "./bundle_mix.js";
import { domainIndex, wantedDomains } from "./catalogue.js";
import { element } from "./elements.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./recommender.js").Recommendations} Recommendations */
/** @typedef {import("./recommender.js").Options} Options */
/** @typedef {import("./explanation.js").Explanation} Explanation */

const N_COLOURS = 4; // of domains in controls.css

/**
 * Name of the domain of an item row.
 *
 * @param {Bundle} bundle
 * @param {number} row
 * @returns {HTMLElement}
 */
export function domainTag(bundle, row) {
  const index = domainIndex(bundle, row);
  return element("span", { class: `tag domain-${index % N_COLOURS}` }, bundle.domains[index].name);
}

/**
 * Title and domain of an item row.
 *
 * @param {Bundle} bundle
 * @param {number} row
 * @param {boolean} tagged whether the domain is shown
 * @returns {HTMLElement}
 */
export function what(bundle, row, tagged = true) {
  const title = element("span", { class: "title" }, bundle.titles[row - 1] || bundle.ids[row - 1]);
  return element("span", { class: "what" }, title, ...(tagged ? [domainTag(bundle, row)] : []));
}

/**
 * Recommended items with their scores.
 *
 * @param {Bundle} bundle
 * @param {Recommendations} answer
 * @param {boolean} tagged whether the domains are shown
 * @returns {HTMLElement[]}
 */
export function recommendationList(bundle, answer, tagged) {
  return answer.items.map((item) => {
    const score = answer.fallback ? `${(100 * item.score).toFixed(2)} %` : fixed(item.score);
    return element(
      "li",
      { "data-id": item.id },
      what(bundle, bundle.rowOfId.get(item.id) ?? 0, tagged),
      element("data", { value: item.score, class: "number" }, score),
    );
  });
}

/**
 * One sentence about an answer.
 *
 * @param {Recommendations} answer
 * @param {number} milliseconds that it took
 * @returns {string}
 */
export function answerNote(answer, milliseconds) {
  const n = answer.items.length;
  if (answer.fallback) {
    return "There is nothing to go by yet: these are the most popular items, with their share of all purchases.";
  }
  if (!n) return "Nothing is left to recommend.";
  return `${n} ${n === 1 ? "item" : "items"}, best first; ${milliseconds.toFixed(1)} ms with the reasons.`;
}

/**
 * What each item of the history did for the first recommendation.
 *
 * @param {Recommendations} answer
 * @returns {HTMLElement[]}
 */
export function influenceList(answer) {
  const top = answer.items[0];
  const items = answer.explanation?.history ?? [];
  if (!top || !items.length)
    return [element("p", { class: "note" }, "No item of the history had a part in this.")];
  const largest = Math.max(...items.map((item) => Math.abs(item.change ?? 0)), 1e-9);
  const digits = largest < 1 ? 3 : 2;
  const rows = items.map((item) => {
    const change = item.change ?? 0;
    const fill = element("span", {});
    fill.style.width = `${(100 * Math.abs(change)) / largest}%`;
    return element(
      "li",
      { "data-id": item.id, class: change < 0 ? "lowers" : "raises" },
      element("span", { class: "title" }, item.title || item.id),
      element("span", { class: "bar", "aria-hidden": "true" }, fill),
      element(
        "data",
        { class: "number", value: change },
        item.change === null ? "all of it" : signed(change, digits),
      ),
    );
  });
  return [
    element("h3", {}, "What the history did for “", element("b", {}, top.title || top.id), "”"),
    element(
      "p",
      { class: "note" },
      "By how much its score would change without the item; all else is done anew.",
    ),
    element("ol", { class: "influences" }, ...rows),
  ];
}

/**
 * The pseudo items of an answer, or why there are none.
 *
 * @param {Bundle} bundle
 * @param {Explanation} explanation
 * @param {boolean} tagged whether the domains are shown
 * @param {string} none why there are none
 * @returns {HTMLElement[]}
 */
export function pseudoItems(bundle, explanation, tagged, none) {
  const heading = element("h3", {}, "Pseudo items");
  if (!explanation.pseudo.length) return [heading, element("p", { class: "note" }, none)];
  const rows = explanation.pseudo.map((item) =>
    element(
      "tr",
      { "data-id": item.id },
      element("th", { scope: "row" }, what(bundle, bundle.rowOfId.get(item.id) ?? 0, tagged)),
      element("td", { class: "number" }, fixed(item.similarity)),
      element("td", {}, item.inserted ? "yes" : ""),
    ),
  );
  const columns = ["Item", "Similarity", "Inserted"].map((name) => element("th", { scope: "col" }, name));
  return [
    heading,
    element(
      "p",
      { class: "note" },
      "Real items that stand in for a history there: ",
      element("b", {}, explanation.setting),
      ".",
    ),
    element("table", {}, element("thead", {}, element("tr", {}, ...columns)), element("tbody", {}, ...rows)),
  ];
}

/**
 * Why an answer has no pseudo items.
 *
 * @param {Bundle} bundle
 * @param {readonly string[]} history
 * @param {Options} options
 * @returns {string}
 */
export function whyNoPseudoItems(bundle, history, options) {
  const { recall, mix } = bundle;
  const pseudo = options.pseudo ?? "auto";
  if (!recall) return "None: this bundle has no recall network.";
  if (pseudo === "off") return "None: they are off.";
  if (pseudo !== "auto")
    return pseudo.length ? "None: the names say nothing." : "None: no names are given yet.";
  if (!history.length) return "None: the history is empty.";
  const wanted = wantedDomains(bundle, options.domain ?? null);
  const has = new Set(history.map((id) => domainIndex(bundle, bundle.rowOfId.get(id) ?? 0)));
  const lacking = wanted.filter((index) => !has.has(index));
  /** @type {(indices: readonly number[]) => string} */
  const names = (indices) => indices.map((index) => bundle.domains[index].name).join(", ");
  if (!lacking.length) return `None are needed: the history has items of ${names(wanted)}.`;
  if (!lacking.some((index) => recalls(mix.domains[index].cold))) {
    return `None: for ${names(lacking)} they have no weight in this bundle, as their gain on validation was not sure. Try “by history”.`;
  }
  return "None: nothing is inserted where several catalogues are asked for, or the items say nothing.";
}

/**
 * The call of the Python package that answers the same.
 *
 * @param {readonly string[]} history
 * @param {Options} options
 * @returns {string}
 */
export function pythonCall(history, options) {
  const pseudo = options.pseudo ?? "auto";
  const same = Array.isArray(pseudo) && String(pseudo) === String(history) && history.length > 0;
  const seen = options.excludeSeen === false ? ", exclude_seen=False" : "";
  return [
    "from llmcdsr_lite import Recommender",
    "",
    'recommender = Recommender.load("models/demo")',
    `history = ${pythonList(history)}`,
    "answer = recommender.recommend(",
    `    history, domain=${options.domain ? JSON.stringify(options.domain) : "None"}, k=${options.k}${seen}, explain=True,`,
    `    pseudo=${same ? "history" : Array.isArray(pseudo) ? pythonList(pseudo) : JSON.stringify(pseudo)},`,
    ")",
  ].join("\n");
}

/** @param {readonly string[]} strings @returns {string} */
function pythonList(strings) {
  if (strings.length < 2) return `[${strings.map((one) => JSON.stringify(one)).join("")}]`;
  return `[\n${strings.map((one) => `    ${JSON.stringify(one)},\n`).join("")}]`;
}

/** @param {number} value @param {number} digits @returns {string} */
function fixed(value, digits = 2) {
  const written = Math.abs(value).toFixed(digits);
  return value < 0 && Number(written) ? `−${written}` : written;
}

/** @param {number} value @param {number} digits @returns {string} */
function signed(value, digits) {
  return (value > 0 ? "+" : "") + fixed(value, digits);
}
