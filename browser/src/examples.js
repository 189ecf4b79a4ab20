/** Histories to begin with: the sample histories that lie beside the bundle. */

import { isObject } from "./bundle_files.js";

/**
 * @typedef {object} Example
 * @property {string} user
 * @property {string[]} history ids of known items
 * @property {string | null} domain that is asked for
 */

const MOST = 6; // as many as do not push the history off a phone

/**
 * Examples of a JSON Lines file of histories; those that cannot be used are left out, and there are none
 * where the file is not there: the page does without.
 *
 * @param {URL} url
 * @param {import("./bundle.js").Bundle} bundle
 * @returns {Promise<Example[]>}
 */
export async function loadExamples(url, bundle) {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) return [];
  const lines = (await response.text()).split("\n").filter((line) => line.trim());
  return lines.flatMap((line) => readExample(line, bundle) ?? []).slice(0, MOST);
}

/**
 * @param {string} line
 * @param {import("./bundle.js").Bundle} bundle
 * @returns {Example | null}
 */
function readExample(line, bundle) {
  let record;
  try {
    record = JSON.parse(line);
  } catch {
    return null;
  }
  if (!isObject(record) || !Array.isArray(record.history)) return null;
  const history = record.history.filter((id) => bundle.rowOfId.has(id));
  const domain = bundle.domains.find((one) => one.name === record.domain)?.name ?? null;
  return history.length ? { user: String(record.user).replaceAll("-", " "), history, domain } : null;
}
