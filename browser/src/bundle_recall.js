/** The recall network in a bundle; see llmcdsr_lite/bundle/recall.py. */

import { CONFIG, isObject, readSize } from "./bundle_files.js";
import { BundleError } from "./errors.js";
import { readFloat32 } from "./npy.js";

/** @typedef {import("./bundle_files.js").JsonObject} JsonObject */

/**
 * @typedef {object} Recall
 * @property {number} hidden H'
 * @property {Float32Array} names (domains - 1, items + 1, H'), what every item says in the space of each domain that it
 *   is not of, in the order of the domains
 * @property {Float32Array} items (items + 1, H'), of length 1 or zero
 * @property {Float32Array} poolers (domains, H')
 * @property {readonly number[]} titleLengths mean length of projected titles in the space of each domain
 */

const NAMES = "recall_names.npy";
const ITEMS = "recall_items.npy";
const POOLERS = "recall_poolers.npy";
export const RECALL_FILES = [NAMES, ITEMS, POOLERS];
const MAX_HIDDEN = 1 << 14;
const LENGTH_TOLERANCE = 1e-3;

/**
 * Read the recall network of a bundle, if it has one.
 *
 * @param {JsonObject} config
 * @param {Map<string, Uint8Array>} files those of `RECALL_FILES` that are listed, checked
 * @param {number} nRows items + 1
 * @param {number} nDomains
 * @returns {Recall | null}
 */
export function readRecall(config, files, nRows, nDomains) {
  const described = config.recall;
  const listed = RECALL_FILES.filter((name) => files.has(name));
  if (described === undefined || described === null) {
    if (listed.length) throw new BundleError(`${CONFIG}: lists ${listed[0]}, but has no field 'recall'`);
    return null;
  }
  if (!isObject(described)) throw new BundleError(`${CONFIG}: field 'recall' must be an object`);
  const missing = RECALL_FILES.find((name) => !files.has(name));
  if (missing)
    throw new BundleError(`${CONFIG}: field 'files' does not list ${missing}, which 'recall' needs`);
  if (nDomains < 2) {
    throw new BundleError(
      `${CONFIG}: has field 'recall', but one domain alone: there is nothing to recall for`,
    );
  }
  const hidden = readSize(described, "hidden", MAX_HIDDEN);
  /** @type {(name: string, shape: number[]) => Float32Array} */
  const array = (name, shape) => readFloat32(/** @type {Uint8Array} */ (files.get(name)), name, shape);
  const names = array(NAMES, [nDomains - 1, nRows, hidden]);
  const items = array(ITEMS, [nRows, hidden]);
  for (let start = 0; start < names.length; start += items.length) {
    checkPadding(NAMES, names.subarray(start, start + hidden));
  }
  checkPadding(ITEMS, items.subarray(0, hidden));
  checkLengths(items, hidden);
  const lengths = described.title_lengths;
  if (
    !Array.isArray(lengths) ||
    lengths.length !== nDomains ||
    !lengths.every((x) => Number.isFinite(x) && x > 0)
  ) {
    throw new BundleError(
      `${CONFIG}: field 'recall.title_lengths' is ${JSON.stringify(lengths)}, expected ${nDomains} lengths`,
    );
  }
  return { hidden, names, items, poolers: array(POOLERS, [nDomains, hidden]), titleLengths: lengths };
}

/**
 * @param {string} file
 * @param {Float32Array} padding
 */
function checkPadding(file, padding) {
  if (padding.some(Boolean)) throw new BundleError(`${file}: row 0 is padding and must be zero`);
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
