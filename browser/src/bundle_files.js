/** Fetching and checking the files of a bundle: nothing is believed. */

import { BundleError } from "./errors.js";
import { sha256 } from "./sha256.js";

export const CONFIG = "config.json";
const MAX_CONFIG_BYTES = 1 << 20;
const FILE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

/** @typedef {Record<string, unknown>} JsonObject */

/**
 * What config.json says.
 *
 * @param {URL} folder ends with a slash
 * @returns {Promise<JsonObject>}
 */
export async function fetchConfig(folder) {
  const bytes = await fetchBytes(folder, CONFIG);
  if (bytes.length > MAX_CONFIG_BYTES) {
    throw new BundleError(`${CONFIG}: larger than ${MAX_CONFIG_BYTES} bytes`);
  }
  const value = parseJson(bytes, CONFIG);
  if (!isObject(value)) throw new BundleError(`${CONFIG}: must be a JSON object`);
  return value;
}

/**
 * Fetch files of the bundle, all at once, and compare size and SHA-256 with config.json.
 *
 * @param {URL} folder
 * @param {JsonObject} config
 * @param {readonly string[]} names
 * @returns {Promise<Map<string, Uint8Array<ArrayBuffer>>>} content of each
 */
export async function fetchFiles(folder, config, names) {
  const files = config.files;
  if (!isObject(files)) throw new BundleError(`${CONFIG}: field 'files' must be an object`);
  /** @type {(name: string) => Promise<[string, Uint8Array<ArrayBuffer>]>} */
  const fetched = async (name) => {
    const entry = files[name];
    if (!FILE_NAME.test(name)) throw new BundleError(`${CONFIG}: '${name}' is not a plain file name`);
    if (!isObject(entry) || !Number.isSafeInteger(entry.bytes) || typeof entry.sha256 !== "string") {
      throw new BundleError(`${CONFIG}: entry '${name}' of 'files' needs bytes and sha256`);
    }
    const bytes = await fetchBytes(folder, name);
    if (bytes.length !== entry.bytes) {
      throw new BundleError(`${name}: ${bytes.length} bytes, expected ${entry.bytes}`);
    }
    const found = await sha256(bytes);
    if (found !== entry.sha256) {
      throw new BundleError(`${name}: SHA-256 is ${found}, expected ${entry.sha256}: damaged or changed`);
    }
    return [name, bytes];
  };
  return new Map(await Promise.all(names.map(fetched)));
}

/**
 * Whether config.json lists a file.
 *
 * @param {JsonObject} config
 * @param {string} name
 * @returns {boolean}
 */
export function lists(config, name) {
  return isObject(config.files) && Object.hasOwn(config.files, name);
}

/**
 * A JSON array of n strings.
 *
 * @param {Uint8Array} bytes
 * @param {string} file
 * @param {number} n
 * @returns {string[]}
 */
export function readStrings(bytes, file, n) {
  const strings = parseJson(bytes, file);
  if (!Array.isArray(strings) || !strings.every((one) => typeof one === "string")) {
    throw new BundleError(`${file}: must be a JSON array of strings`);
  }
  if (strings.length !== n) {
    throw new BundleError(`${file}: ${strings.length} strings, expected ${n} (the items of all domains)`);
  }
  return strings;
}

/**
 * A field that must be a whole number from 1 to a limit.
 *
 * @param {JsonObject} holder
 * @param {string} name
 * @param {number} limit
 * @returns {number}
 */
export function readSize(holder, name, limit) {
  const value = holder[name];
  if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > limit) {
    throw new BundleError(
      `${CONFIG}: field '${name}' is ${JSON.stringify(value)}, expected a number from 1 to ${limit}`,
    );
  }
  return value;
}

/**
 * @param {unknown} value
 * @returns {value is JsonObject}
 */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * @param {URL} folder
 * @param {string} name
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function fetchBytes(folder, name) {
  try {
    const response = await fetch(new URL(name, folder));
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
    throw new BundleError(`${name}: is missing: the server answers ${response.status} for ${response.url}`);
  } catch (error) {
    if (error instanceof BundleError) throw error;
    throw new BundleError(`${name}: cannot be fetched from ${folder}: ${error}`);
  }
}

/**
 * @param {Uint8Array} bytes
 * @param {string} file
 * @returns {unknown}
 */
function parseJson(bytes, file) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new BundleError(`${file}: not valid JSON: ${error instanceof Error ? error.message : error}`);
  }
}
