/** The recall network in a bundle; see llmcdsr_lite/bundle/recall.py. */

import { CONFIG, isObject, readSize } from "./bundle_files.js";
import { BundleError } from "./errors.js";
import { readFloat32 } from "./npy.js";

/** @typedef {import("./bundle_files.js").JsonObject} JsonObject */

/**
 * What is done with pseudo items.
 *
 * @typedef {object} PseudoSetting
 * @property {"off" | "insert" | "fuse"} mode
 * @property {number} k how many items are recalled
 * @property {"front" | "spread"} place insert: before the history, or evenly among its items
 * @property {"domain" | "recalled"} scope fuse: whose scores get something added
 * @property {number} weight fuse: what a cosine of 1 adds to a score
 */

/**
 * What a bundle does for one target domain.
 *
 * @typedef {object} PseudoChoice
 * @property {PseudoSetting} auto for histories without an item of the domain
 * @property {PseudoSetting} names where the caller gives names; never off
 * @property {"titles" | "companions" | "both" | "names"} source what the items of a history say
 */

/**
 * @typedef {object} Recall
 * @property {number} hidden H'
 * @property {Float32Array} names (items + 1, H'), what every item says in the space of the other domain
 * @property {Float32Array} items (items + 1, H'), of length 1 or zero
 * @property {Float32Array} poolers (2, H')
 * @property {readonly [number, number]} titleLengths mean length of projected titles
 * @property {readonly [PseudoChoice, PseudoChoice]} choices for target domain A, target domain B
 */

const NAMES = "recall_names.npy";
const ITEMS = "recall_items.npy";
const POOLERS = "recall_poolers.npy";
export const RECALL_FILES = [NAMES, ITEMS, POOLERS];
const RECALL_VERSION = 2;
const MAX_HIDDEN = 1 << 14;
const MAX_PSEUDO_ITEMS = 1000;
const LENGTH_TOLERANCE = 1e-3;

/**
 * Read the recall network of a bundle, if it has one.
 *
 * @param {JsonObject} config
 * @param {Map<string, Uint8Array>} files those of `RECALL_FILES` that are listed, checked
 * @param {number} nRows items + 1
 * @returns {Recall | null}
 */
export function readRecall(config, files, nRows) {
  const described = config.recall;
  const listed = RECALL_FILES.filter((name) => files.has(name));
  if (described === undefined || described === null) {
    if (listed.length) throw new BundleError(`${CONFIG}: lists ${listed[0]}, but has no field 'recall'`);
    return null;
  }
  if (!isObject(described)) throw new BundleError(`${CONFIG}: field 'recall' must be an object`);
  if (Number(config.format_version) < RECALL_VERSION) {
    throw new BundleError(`${CONFIG}: field 'recall' needs format version ${RECALL_VERSION}`);
  }
  const hidden = readSize(described, "hidden", MAX_HIDDEN);
  /** @type {(name: string, shape: number[]) => Float32Array} */
  const array = (name, shape) => {
    const bytes = files.get(name);
    if (bytes) return readFloat32(bytes, name, shape);
    throw new BundleError(`${CONFIG}: field 'files' does not list ${name}, which 'recall' needs`);
  };
  const names = array(NAMES, [nRows, hidden]);
  const items = array(ITEMS, [nRows, hidden]);
  if (names.subarray(0, hidden).some(Boolean) || items.subarray(0, hidden).some(Boolean)) {
    throw new BundleError(`${NAMES} and ${ITEMS}: row 0 is padding and must be zero`);
  }
  checkLengths(items, hidden);
  const lengths = described.title_lengths;
  if (!Array.isArray(lengths) || lengths.length !== 2 || !lengths.every((x) => Number.isFinite(x) && x > 0)) {
    throw new BundleError(`${CONFIG}: field 'recall.title_lengths' must be two lengths`);
  }
  const pseudo = described.pseudo;
  if (!Array.isArray(pseudo) || pseudo.length !== 2) {
    throw new BundleError(`${CONFIG}: field 'recall.pseudo' must list two domains`);
  }
  return {
    hidden,
    names,
    items,
    poolers: array(POOLERS, [2, hidden]),
    titleLengths: [lengths[0], lengths[1]],
    choices: [readChoice(pseudo[0]), readChoice(pseudo[1])],
  };
}

/**
 * In words, as Python has it.
 *
 * @param {PseudoSetting} setting
 * @returns {string}
 */
export function settingInWords(setting) {
  if (setting.mode === "off") return "off";
  if (setting.mode === "insert") {
    const where = setting.place === "front" ? "before the history" : "spread over the history";
    return `insert ${setting.k} items ${where}`;
  }
  const to = setting.scope === "domain" ? "all items" : `the ${setting.k} most similar items`;
  return `add ${Number(setting.weight.toPrecision(3))} x cosine to the scores of ${to}`;
}

/**
 * Every item vector has length 1, or is zero.
 *
 * @param {Float32Array} items (items + 1, H')
 * @param {number} hidden
 */
function checkLengths(items, hidden) {
  for (let row = 0; row * hidden < items.length; row++) {
    const length = Math.hypot(...items.subarray(row * hidden, (row + 1) * hidden));
    if (length !== 0 && Math.abs(length - 1) > LENGTH_TOLERANCE) {
      throw new BundleError(`${ITEMS}: row ${row} has length ${length.toPrecision(4)}, expected 1 (or 0)`);
    }
  }
}

/**
 * @param {unknown} entry
 * @returns {PseudoChoice}
 */
function readChoice(entry) {
  if (!isObject(entry)) throw new BundleError(`${CONFIG}: each of 'recall.pseudo' must be an object`);
  const source = oneOf(entry, "source", /** @type {const} */ (["titles", "companions", "both", "names"]));
  const [auto, names] = [readSetting(entry.auto), readSetting(entry.names)];
  if (names.mode === "off") {
    throw new BundleError(`${CONFIG}: field 'recall.pseudo': names: mode is 'off', expected another`);
  }
  return { auto, names, source };
}

/**
 * @param {unknown} value
 * @returns {PseudoSetting}
 */
function readSetting(value) {
  if (!isObject(value)) throw new BundleError(`${CONFIG}: field 'recall.pseudo' lacks a setting`);
  const { weight } = value;
  const mode = oneOf(value, "mode", /** @type {const} */ (["off", "insert", "fuse"]));
  if (typeof weight !== "number" || !(weight >= 0) || (mode === "fuse" && weight === 0)) {
    throw new BundleError(`${CONFIG}: field 'recall.pseudo': weight is ${JSON.stringify(weight)}`);
  }
  return {
    mode,
    k: readSize(value, "k", MAX_PSEUDO_ITEMS),
    place: oneOf(value, "place", /** @type {const} */ (["front", "spread"])),
    scope: oneOf(value, "scope", /** @type {const} */ (["domain", "recalled"])),
    weight,
  };
}

/**
 * A field that must be one of some strings.
 *
 * @template {string} T
 * @param {JsonObject} holder
 * @param {string} name
 * @param {readonly T[]} choices
 * @returns {T}
 */
function oneOf(holder, name, choices) {
  const found = choices.find((choice) => choice === holder[name]);
  if (found !== undefined) return found;
  throw new BundleError(
    `${CONFIG}: field 'recall.pseudo': ${name} is ${JSON.stringify(holder[name])}, ` +
      `expected one of ${choices.join(", ")}`,
  );
}
