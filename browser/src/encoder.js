/** User representations from item rows: the bundle's ONNX model in onnxruntime-web, on one thread. */

import { ITEM_VECTORS } from "./bundle.js";
import { BundleError } from "./errors.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {typeof import("onnxruntime-web")} Ort */

const INPUT_NAME = "item_rows";
const OUTPUT_NAME = "user_representation";
const LONGEST_CHECK = 1024; // attention is quadratic in the length: the check at load must stay small
const VENDOR = new URL("vendor/", import.meta.url);

/** @type {Promise<Ort> | null} the one runtime of the page: it has room for sessions of many bundles */
let runtime = null;

/**
 * Load onnxruntime-web, once; it does not depend on the bundle: begin with it.
 *
 * @returns {Promise<Ort>}
 */
export function loadRuntime() {
  runtime ??= fetchRuntime().catch((error) => {
    runtime = null; // the next call tries again
    throw error;
  });
  return runtime;
}

/** @returns {Promise<Ort>} */
async function fetchRuntime() {
  const [ort, binary] = await Promise.all([
    /** @type {Promise<Ort>} */ (import(new URL("ort.js", VENDOR).href)),
    fetchUnpacked(new URL("ort.wasm.gz", VENDOR)),
  ]);
  ort.env.wasm.numThreads = 1; // more need headers that a plain static server does not send
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmBinary = binary;
  ort.env.logLevel = "fatal"; // errors are raised
  return ort;
}

/** An onnxruntime session of a bundle's recommender. */
export class Encoder {
  /** @type {Promise<unknown>} */
  #last = Promise.resolve();

  /**
   * @param {Ort} ort
   * @param {import("onnxruntime-web").InferenceSession} session
   * @param {Bundle} bundle
   */
  constructor(ort, session, bundle) {
    this.ort = ort;
    this.session = session;
    this.hidden = bundle.hidden;
    this.maxLength = bundle.maxLength;
  }

  /**
   * Make a session, and run the longest history once: a model that does not fit is refused now.
   *
   * @param {Ort} ort
   * @param {Bundle} bundle
   * @returns {Promise<Encoder>}
   * @throws {BundleError}
   */
  static async create(ort, bundle) {
    try {
      const session = await ort.InferenceSession.create(bundle.onnx, {
        executionProviders: ["wasm"],
        // the graph says which bytes of that file, behind its .npy header, are its item table
        externalData: [{ path: ITEM_VECTORS, data: bundle.itemVectorsFile }],
        logSeverityLevel: 4,
      });
      ort.env.wasm.wasmBinary = undefined; // compiled: its 14 MB are not needed any more
      const encoder = new Encoder(ort, session, bundle);
      const longest = new Array(Math.min(bundle.maxLength, LONGEST_CHECK)).fill(1);
      const found = await encoder.represent([longest, longest]);
      if (!found.every(Number.isFinite)) throw new Error("it gives values that are not finite");
      return encoder;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new BundleError(`recommender.onnx: is not the recommender of this bundle: ${reason}`);
    }
  }

  /**
   * User representations. One call runs at a time, later ones wait.
   *
   * @param {readonly (readonly number[])[]} sequences n arrays of item rows, oldest first, none empty; each
   *   is cut to its newest `maxLength`
   * @returns {Promise<Float32Array>} (n, H)
   */
  represent(sequences) {
    const run = this.#last.then(() => this.#run(sequences));
    this.#last = run.catch(() => undefined);
    return run;
  }

  /**
   * @param {readonly (readonly number[])[]} sequences
   * @returns {Promise<Float32Array>}
   */
  async #run(sequences) {
    const newest = sequences.map((rows) => rows.slice(-this.maxLength));
    const length = Math.max(...newest.map((rows) => rows.length));
    const padded = new BigInt64Array(newest.length * length); // (n, length), zeros in front
    newest.forEach((rows, i) => {
      rows.forEach((row, j) => {
        padded[(i + 1) * length - rows.length + j] = BigInt(row);
      });
    });
    const input = new this.ort.Tensor("int64", padded, [newest.length, length]);
    const output = (await this.session.run({ [INPUT_NAME]: input }, [OUTPUT_NAME]))[OUTPUT_NAME];
    if (output.type !== "float32" || String(output.dims) !== `${newest.length},${this.hidden}`) {
      throw new Error(
        `it gives a ${output.type} array (${output.dims}), ` +
          `expected float32 (${newest.length}, ${this.hidden})`,
      );
    }
    return /** @type {Float32Array} */ (output.data);
  }

  /** Free the session's memory. */
  async release() {
    await this.#last;
    await this.session.release();
  }
}

/**
 * A gzip file, unpacked here: plain static servers do not compress. One that has unpacked it on the way is
 * fine, too.
 *
 * @param {URL} url
 * @returns {Promise<ArrayBuffer>}
 */
async function fetchUnpacked(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answers ${response.status}; was the page built?`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes.buffer;
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).arrayBuffer();
}
