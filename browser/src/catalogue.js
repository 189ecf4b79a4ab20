/** Domains and their item rows; see llmcdsr_lite/catalogue.py and request.py. */

import { UsageError } from "./errors.js";

/**
 * Items of rows `start <= row < stop`; row 0 is padding.
 *
 * @typedef {object} Domain
 * @property {string} name
 * @property {number} start
 * @property {number} stop
 */

/** @typedef {{readonly domains: readonly Domain[]}} Catalogue a bundle is one */

/**
 * Index of the domain of an item row.
 *
 * @param {Catalogue} catalogue
 * @param {number} row
 * @returns {number}
 */
export function domainIndex({ domains }, row) {
  return domains.findIndex(({ stop }) => row < stop);
}

/**
 * Indices, in order, of the domain of that name, or of those of several names; all of them for null.
 *
 * @param {Catalogue} catalogue
 * @param {string | readonly string[] | null} domain
 * @returns {number[]} one or more
 * @throws {UsageError} if there is no such domain, or none is named
 */
export function wantedDomains({ domains }, domain) {
  const names = domains.map(({ name }) => name);
  const wanted = domain === null ? names : typeof domain === "string" ? [domain] : domain;
  if (!wanted.length) throw new UsageError("domain names no domain, expected one at least, or null for all");
  const unknown = wanted.find((name) => !names.includes(name));
  if (unknown !== undefined) {
    const expected = names.map((name) => `'${name}'`).join(" or ");
    throw new UsageError(`no domain is named '${unknown}', expected ${expected}`);
  }
  return names.flatMap((name, index) => (wanted.includes(name) ? [index] : []));
}
