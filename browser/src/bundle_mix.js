/** The mix of experts in a bundle; see llmcdsr_lite/bundle/mix.py. */

import { CONFIG, isObject, readSize } from "./bundle_files.js";
import { BundleError } from "./errors.js";
import { readFloat32, readHeader, readInt32, readInt64 } from "./npy.js";

/** @typedef {import("./bundle_files.js").JsonObject} JsonObject */
/** @typedef {import("./catalogue.js").Domain} Domain */

/**
 * Weight of every expert, see llmcdsr_lite/mix/weights.py.
 *
 * @typedef {object} ExpertWeights
 * @property {number} next
 * @property {number} repeat
 * @property {number} recent
 * @property {number} popular
 * @property {number} similar
 * @property {number} inserted
 */

/** @typedef {Pick<ExpertWeights, "similar" | "inserted">} PseudoWeights of the experts that need pseudo items */

/**
 * The mix for one target domain.
 *
 * @typedef {object} DomainMix
 * @property {ExpertWeights} warm for users with items of the domain in the history
 * @property {ExpertWeights} cold for users without
 * @property {ExpertWeights} named of pseudo items for names that a caller gives, in place of those of `cold`
 * @property {"titles" | "companions" | "both" | "names"} source what the items of a history say
 * @property {number} nRecalled how many pseudo items are recalled
 * @property {number} offset added to the domain's scores where several domains are asked for
 * @property {number} offsetLast added besides where the last item of the history is of the domain
 * @property {boolean} excludeSeen whether items of the history are left out by default
 */

/**
 * Which items come next: the sparse row `d * nRows + j` is of domain d, after the item of row j.
 *
 * @typedef {object} NextCounts
 * @property {Float64Array} starts (domains * nRows + 1,)
 * @property {Int32Array} rows (n,), item rows
 * @property {Float32Array} weights (n,)
 */

/**
 * @typedef {object} Mix
 * @property {readonly DomainMix[]} domains for each target domain
 * @property {NextCounts | null} counts
 */

const STARTS = "next_starts.npy";
const ROWS = "next_rows.npy";
const WEIGHTS = "next_weights.npy";
export const MIX_FILES = [STARTS, ROWS, WEIGHTS];
const MAX_WEIGHT = 1e4;
const MAX_RECALLED = 1000;
const SOURCES = /** @type {const} */ (["titles", "companions", "both", "names"]);
const EXPERTS = /** @type {const} */ (["next", "repeat", "recent", "popular", "similar", "inserted"]);
const FIELDS = [
  "warm",
  "cold",
  "named",
  "source",
  "n_recalled",
  "offset",
  "offset_last",
  "exclude_seen",
  "validation",
];
const NOTHING = { next: 0, repeat: 0, recent: 0, popular: 0, similar: 0, inserted: 0 };
/** @type {DomainMix} */
const NO_MIX = {
  warm: NOTHING,
  cold: NOTHING,
  named: { ...NOTHING, inserted: 1 },
  source: "titles",
  nRecalled: 10,
  offset: 0,
  offsetLast: 0,
  excludeSeen: true,
};

/**
 * Read the mix of a bundle; without one, nothing is added to scores.
 *
 * @param {JsonObject} config
 * @param {Map<string, Uint8Array>} files those of `MIX_FILES` that are listed, checked
 * @param {readonly Domain[]} domains
 * @param {boolean} withRecall whether there is a recall network
 * @returns {Mix}
 */
export function readMix(config, files, domains, withRecall) {
  const described = config.mix;
  const listed = MIX_FILES.filter((name) => files.has(name));
  if (described === undefined || described === null) {
    if (listed.length) throw new BundleError(`${CONFIG}: lists ${listed[0]}, but has no field 'mix'`);
    if (withRecall) throw new BundleError(`${CONFIG}: has a recall network, but no field 'mix'`);
    return { domains: domains.map(() => NO_MIX), counts: null };
  }
  if (!Array.isArray(described) || described.length !== domains.length) {
    throw new BundleError(`${CONFIG}: field 'mix' must list ${domains.length} domains, as 'domains' does`);
  }
  const mixes = described.map(readDomain);
  if (!withRecall && mixes.some((mix) => recalls(mix.cold))) {
    throw new BundleError(`${CONFIG}: field 'mix' weighs pseudo items, but there is no recall network`);
  }
  if (!listed.length) {
    if (mixes.some((mix) => mix.warm.next || mix.cold.next)) {
      throw new BundleError(
        `${CONFIG}: field 'mix' weighs next-item counts, but 'files' does not list ${STARTS}`,
      );
    }
    return { domains: mixes, counts: null };
  }
  const missing = MIX_FILES.find((name) => !files.has(name));
  if (missing) throw new BundleError(`${CONFIG}: field 'files' lists ${listed[0]}, but not ${missing}`);
  return { domains: mixes, counts: readCounts(files, domains) };
}

/**
 * @param {unknown} entry
 * @returns {DomainMix}
 */
function readDomain(entry) {
  if (!isObject(entry)) throw new BundleError(`${CONFIG}: each of 'mix' must be an object`);
  checkFields(entry, FIELDS);
  if (!isObject(entry.validation)) {
    throw new BundleError(`${CONFIG}: field 'mix': validation must be an object`);
  }
  const excludeSeen = entry.exclude_seen;
  if (typeof excludeSeen !== "boolean") {
    throw new BundleError(`${CONFIG}: field 'mix': exclude_seen is ${JSON.stringify(excludeSeen)}`);
  }
  const [warm, cold, named] = [entry.warm, entry.cold, entry.named].map(readWeights);
  if (warm.popular || recalls(warm)) {
    throw new BundleError(
      `${CONFIG}: field 'mix': warm weighs experts for users without items of the domain`,
    );
  }
  if (named.next || named.repeat || named.recent || named.popular || !recalls(named)) {
    throw new BundleError(`${CONFIG}: field 'mix': named must weigh pseudo items alone`);
  }
  const source = SOURCES.find((one) => one === entry.source);
  if (!source) {
    throw new BundleError(
      `${CONFIG}: field 'mix': source is ${JSON.stringify(entry.source)}, expected one of ${SOURCES.join(", ")}`,
    );
  }
  return {
    warm,
    cold,
    named,
    source,
    nRecalled: readSize(entry, "n_recalled", MAX_RECALLED),
    offset: readNumber(entry, "offset", -MAX_WEIGHT),
    offsetLast: readNumber(entry, "offset_last", -MAX_WEIGHT),
    excludeSeen,
  };
}

/**
 * Whether experts are weighed that need pseudo items.
 *
 * @param {PseudoWeights} weights
 * @returns {boolean}
 */
export function recalls(weights) {
  return weights.similar > 0 || weights.inserted > 0;
}

/**
 * @param {unknown} entry
 * @returns {ExpertWeights}
 */
function readWeights(entry) {
  if (!isObject(entry)) throw new BundleError(`${CONFIG}: field 'mix' lacks weights`);
  checkFields(entry, EXPERTS);
  const weights = { ...NOTHING };
  for (const name of EXPERTS) weights[name] = readNumber(entry, name, 0);
  return weights;
}

/**
 * Refuse an object with a field missing or unknown: without it, it would be another model.
 *
 * @param {JsonObject} entry
 * @param {readonly string[]} names
 */
function checkFields(entry, names) {
  const missing = names.find((name) => !Object.hasOwn(entry, name));
  if (missing) throw new BundleError(`${CONFIG}: field 'mix' has no field '${missing}'`);
  const unknown = Object.keys(entry).find((name) => !names.includes(name));
  if (unknown !== undefined)
    throw new BundleError(`${CONFIG}: field 'mix' has an unknown field '${unknown}'`);
}

/**
 * @param {JsonObject} holder
 * @param {string} name
 * @param {number} least
 * @returns {number}
 */
function readNumber(holder, name, least) {
  const value = holder[name];
  if (typeof value === "number" && least <= value && value <= MAX_WEIGHT) return value;
  throw new BundleError(
    `${CONFIG}: field 'mix': ${name} is ${JSON.stringify(value)}, ` +
      `expected a number from ${least} to ${MAX_WEIGHT}`,
  );
}

/**
 * @param {Map<string, Uint8Array>} files with all of `MIX_FILES`
 * @param {readonly Domain[]} domains
 * @returns {NextCounts}
 */
function readCounts(files, domains) {
  /** @type {(name: string) => Uint8Array} */
  const file = (name) => /** @type {Uint8Array} */ (files.get(name));
  const nRows = domains[domains.length - 1].stop;
  const nPlaces = domains.length * nRows;
  const starts = readInt64(file(STARTS), STARTS, [nPlaces + 1]);
  if (starts[0] !== 0 || starts.some((start, i) => i > 0 && start < starts[i - 1])) {
    throw new BundleError(`${STARTS}: must rise from 0`);
  }
  const n = starts[nPlaces];
  if (n < 1) throw new BundleError(`${STARTS}: ends at ${n}, expected at least 1`);
  if (n !== readHeader(file(ROWS), ROWS).shape[0]) {
    throw new BundleError(`${STARTS}: ends at ${n}, not at the number of ${ROWS}`);
  }
  const rows = readInt32(file(ROWS), ROWS, [n]);
  const weights = readFloat32(file(WEIGHTS), WEIGHTS, [n]);
  if (weights.some((weight) => !(weight > 0))) {
    throw new BundleError(`${WEIGHTS}: holds what is not above 0`);
  }
  domains.forEach(({ name, start, stop }, index) => {
    const part = rows.subarray(starts[index * nRows], starts[(index + 1) * nRows]);
    const row = part.find((one) => one < start || one >= stop);
    if (row !== undefined) {
      throw new BundleError(`${ROWS}: row ${row} for '${name}', expected ${start} to ${stop - 1}`);
    }
  });
  for (let place = 0; place < nPlaces; place++) {
    for (let i = starts[place] + 1; i < starts[place + 1]; i++) {
      if (rows[i] <= rows[i - 1]) throw new BundleError(`${ROWS}: rows must rise within a sparse row`);
    }
  }
  return { starts, rows, weights };
}
