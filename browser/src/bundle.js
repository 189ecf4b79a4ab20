/**
 * Reading a bundle as `llmcdsr_lite` writes it; see llmcdsr_lite/bundle/folder.py.
 *
 * Fetched is what answers need: neither the model card nor `dense.npy` (for the NumPy backend), the text
 * projections (there is no text encoder here), nor what makes search in large catalogues faster: search is
 * exact.
 */

import { CONFIG, fetchConfig, fetchFiles, isObject, lists, readSize, readStrings } from "./bundle_files.js";
import { MIX_FILES, readMix } from "./bundle_mix.js";
import { RECALL_FILES, readRecall } from "./bundle_recall.js";
import { BundleError } from "./errors.js";
import { readFloat32, readInt64 } from "./npy.js";

/** @typedef {import("./bundle_files.js").JsonObject} JsonObject */
/** @typedef {import("./bundle_recall.js").Recall} Recall */
/** @typedef {import("./catalogue.js").Domain} Domain */

/**
 * @typedef {object} Bundle
 * @property {readonly Domain[]} domains one or more
 * @property {readonly string[]} ids of items, row 1 first
 * @property {readonly string[]} titles in the same order
 * @property {ReadonlyMap<string, number>} rowOfId
 * @property {number} hidden H, of all members together
 * @property {number} maxLength items that the recommender looks back on
 * @property {Float32Array} itemVectors (items + 1, H)
 * @property {Float64Array} itemCounts (items + 1,), training interactions
 * @property {Recall | null} recall
 * @property {import("./bundle_mix.js").Mix} mix what is added to scores
 * @property {Uint8Array} onnx the model
 * @property {Uint8Array} itemVectorsFile what the model's item table points into
 */

export const ITEM_VECTORS = "item_vectors.npy";
const FORMAT = "llmcdsr-bundle";
const FORMAT_VERSION = 1;
const ONNX = "recommender.onnx";
const ITEM_COUNTS = "item_counts.npy";
const ITEM_IDS = "item_ids.json";
const ITEM_TITLES = "item_titles.json";
const NEEDED = [ONNX, ITEM_VECTORS, ITEM_COUNTS, ITEM_IDS, ITEM_TITLES];
const MAX_ITEMS = 1 << 24; // more would not fit a browser's memory anyway
const MAX_HIDDEN = 1 << 14;
const MAX_LENGTH = 1 << 16;
const MAX_MEMBERS = 64;
const MAX_DOMAINS = 64;

/**
 * Read a bundle, checking everything before any of it is used.
 *
 * @param {URL} folder ends with a slash
 * @returns {Promise<Bundle>}
 * @throws {BundleError} if a file is missing, damaged or does not fit; the message names it
 */
export async function readBundle(folder) {
  const config = await fetchConfig(folder);
  checkFormat(config);
  const domains = readDomains(config);
  const model = config.model;
  if (!isObject(model)) throw new BundleError(`${CONFIG}: field 'model' must be an object`);
  const nMembers = "members" in model ? readSize(model, "members", MAX_MEMBERS) : 1;
  const hidden = nMembers * readSize(model, "hidden", MAX_HIDDEN);
  const maxLength = readSize(model, "max_length", MAX_LENGTH);
  const missing = NEEDED.find((name) => !lists(config, name));
  if (missing) throw new BundleError(`${CONFIG}: field 'files' does not list ${missing}`);
  const recallFiles = RECALL_FILES.filter((name) => lists(config, name));
  const mixFiles = MIX_FILES.filter((name) => lists(config, name));
  const files = await fetchFiles(folder, config, [...NEEDED, ...recallFiles, ...mixFiles]);
  /** @type {(name: string) => Uint8Array} */
  const file = (name) => /** @type {Uint8Array} */ (files.get(name));
  const nRows = domains[domains.length - 1].stop;
  const ids = readStrings(file(ITEM_IDS), ITEM_IDS, nRows - 1);
  const itemVectors = readFloat32(file(ITEM_VECTORS), ITEM_VECTORS, [nRows, hidden]);
  if (itemVectors.subarray(0, hidden).some(Boolean)) {
    throw new BundleError(`${ITEM_VECTORS}: row 0 is padding and must be zero`);
  }
  const itemCounts = readInt64(file(ITEM_COUNTS), ITEM_COUNTS, [nRows]);
  if (itemCounts.some((count) => count < 0)) throw new BundleError(`${ITEM_COUNTS}: holds a negative count`);
  const recall = readRecall(config, files, nRows, domains.length);
  return {
    domains,
    ids,
    titles: readStrings(file(ITEM_TITLES), ITEM_TITLES, nRows - 1),
    rowOfId: rowsOfIds(ids),
    hidden,
    maxLength,
    itemVectors,
    itemCounts,
    recall,
    mix: readMix(config, files, domains, recall !== null),
    onnx: file(ONNX),
    itemVectorsFile: file(ITEM_VECTORS),
  };
}

/** @param {JsonObject} config */
function checkFormat(config) {
  if (config.format !== FORMAT) {
    throw new BundleError(
      `${CONFIG}: field 'format' is ${JSON.stringify(config.format)}, expected '${FORMAT}'`,
    );
  }
  if (config.format_version !== FORMAT_VERSION) {
    throw new BundleError(
      `${CONFIG}: field 'format_version' is ${JSON.stringify(config.format_version)}, ` +
        `expected ${FORMAT_VERSION}: the bundle was made by another version`,
    );
  }
}

/**
 * @param {JsonObject} config
 * @returns {Domain[]}
 */
function readDomains(config) {
  const domains = config.domains;
  if (!Array.isArray(domains) || !domains.length || domains.length > MAX_DOMAINS) {
    throw new BundleError(`${CONFIG}: field 'domains' must list 1 to ${MAX_DOMAINS} domains`);
  }
  let start = 1;
  const names = new Set();
  return domains.map((domain) => {
    if (!isObject(domain) || typeof domain.name !== "string" || !domain.name) {
      throw new BundleError(`${CONFIG}: each of 'domains' needs a name`);
    }
    const { name } = domain;
    if (names.has(name)) throw new BundleError(`${CONFIG}: two of 'domains' are named '${name}'`);
    names.add(name);
    const stop = start + readSize(domain, "items", MAX_ITEMS);
    const read = { name, start, stop };
    start = stop;
    return read;
  });
}

/**
 * @param {string[]} ids
 * @returns {Map<string, number>}
 */
function rowsOfIds(ids) {
  const rows = new Map();
  ids.forEach((id, i) => {
    if (rows.has(id)) throw new BundleError(`${ITEM_IDS}: item id '${id}' occurs more than once`);
    rows.set(id, i + 1);
  });
  return rows;
}
