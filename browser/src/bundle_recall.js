/** The recall network in a bundle; see llmcdsr_lite/bundle/recall.py. */

import { CONFIG, isObject, readSize } from "./bundle_files.js";
import { BundleError } from "./errors.js";
import { readFloat32 } from "./npy.js";

/** @typedef {import("./bundle_files.js").JsonObject} JsonObject */

/**
 * @typedef {object} Recall
 * @property {number} hidden H'
 * @property {Float32Array} names (items + 1, H'), what every item says in the space of the other domain
 * @property {Float32Array} items (items + 1, H'), of length 1 or zero
 * @property {Float32Array} poolers (2, H')
 * @property {readonly [number, number]} titleLengths mean length of projected titles
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
  return {
    hidden,
    names,
    items,
    poolers: array(POOLERS, [2, hidden]),
    titleLengths: [lengths[0], lengths[1]],
  };
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
