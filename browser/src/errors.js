/** The exceptions that the page raises on purpose. */

/** A bundle is incomplete, damaged, or of a format that this page does not read. */
export class BundleError extends Error {
  /** @param {string} message names the file or field, what was found and what was expected */
  constructor(message) {
    super(message);
    this.name = "BundleError";
  }
}

/** An argument of a call has a value that cannot be meant. */
export class UsageError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "UsageError";
  }
}
