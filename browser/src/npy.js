/** Reading NumPy's .npy files: the header is parsed as data, nothing is evaluated. */

import { BundleError } from "./errors.js";

const MAGIC = "\x93NUMPY";
const MAX_HEADER_BYTES = 1 << 16;
const HEADER =
  /^\{'descr': '([^']{1,20})', 'fortran_order': (True|False), 'shape': \((\d+(?:, \d+)*|\d+,)?\), \}\s*$/;
const DTYPES = { float32: "<f4", int32: "<i4", int64: "<i8" };

/**
 * @typedef {object} NpyHeader
 * @property {string} descr type of the elements, as NumPy writes it
 * @property {boolean} fortran whether columns come first
 * @property {number[]} shape
 * @property {number} offset bytes before the elements
 */

/**
 * A float32 array of a given shape, all of it finite, in C order.
 *
 * @param {Uint8Array} bytes content of the file
 * @param {string} file its name, for errors
 * @param {number[]} shape expected
 * @returns {Float32Array} the elements, a view of `bytes` where its alignment allows
 */
export function readFloat32(bytes, file, shape) {
  const values = new Float32Array(...elements(bytes, file, "float32", shape, 4));
  if (!values.every(Number.isFinite)) throw new BundleError(`${file}: holds values that are not finite`);
  return values;
}

/**
 * An int64 array of a given shape in C order, as numbers: exact up to 2 ** 53.
 *
 * @param {Uint8Array} bytes content of the file
 * @param {string} file its name, for errors
 * @param {number[]} shape expected
 * @returns {Float64Array}
 */
export function readInt64(bytes, file, shape) {
  return Float64Array.from(new BigInt64Array(...elements(bytes, file, "int64", shape, 8)), Number);
}

/**
 * An int32 array of a given shape in C order.
 *
 * @param {Uint8Array} bytes content of the file
 * @param {string} file its name, for errors
 * @param {number[]} shape expected
 * @returns {Int32Array}
 */
export function readInt32(bytes, file, shape) {
  return new Int32Array(...elements(bytes, file, "int32", shape, 4));
}

/**
 * The header of a .npy file.
 *
 * @param {Uint8Array} bytes
 * @param {string} file
 * @returns {NpyHeader}
 */
export function readHeader(bytes, file) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || latin1(bytes.subarray(0, 6)) !== MAGIC) {
    throw new BundleError(`${file}: is not a NumPy array: it does not begin as one`);
  }
  const major = bytes[6];
  if (major < 1 || major > 3) throw new BundleError(`${file}: .npy version ${major}, expected 1 to 3`);
  const start = major === 1 ? 10 : 12;
  const length = major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > MAX_HEADER_BYTES || start + length > bytes.length) {
    throw new BundleError(`${file}: its header of ${length} bytes does not fit`);
  }
  const found = HEADER.exec(latin1(bytes.subarray(start, start + length)));
  if (!found) throw new BundleError(`${file}: its header is not as NumPy writes it`);
  const shape = (found[3] ?? "")
    .split(",")
    .filter((size) => size.trim())
    .map(Number);
  return { descr: found[1], fortran: found[2] === "True", shape, offset: start + length };
}

/**
 * Where the elements are, as arguments of a typed array.
 *
 * @param {Uint8Array} bytes
 * @param {string} file
 * @param {keyof typeof DTYPES} dtype
 * @param {number[]} shape
 * @param {number} size bytes of an element
 * @returns {[ArrayBuffer, number, number]} buffer, offset in bytes, number of elements
 */
function elements(bytes, file, dtype, shape, size) {
  const header = readHeader(bytes, file);
  if (header.descr !== DTYPES[dtype] || header.fortran || String(header.shape) !== String(shape)) {
    const order = header.fortran ? "Fortran" : "C";
    throw new BundleError(
      `${file}: ${header.descr} array of shape (${header.shape.join(", ")}) in ${order} order, ` +
        `expected ${dtype} (${shape.join(", ")}) in C order`,
    );
  }
  const n = shape.reduce((product, length) => product * length, 1);
  if (bytes.length - header.offset !== n * size) {
    throw new BundleError(`${file}: ${bytes.length - header.offset} bytes of elements, expected ${n * size}`);
  }
  const offset = bytes.byteOffset + header.offset;
  if (bytes.buffer instanceof ArrayBuffer && offset % size === 0) return [bytes.buffer, offset, n];
  return [bytes.slice(header.offset).buffer, 0, n];
}

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
function latin1(bytes) {
  return String.fromCharCode(...bytes);
}
