/** Sums and sorting that ranking and recall share. Sums are in float64, what is kept is float32. */

/**
 * Dot product of n values of two arrays, from an offset in each.
 *
 * @param {Float32Array} a
 * @param {number} aOffset
 * @param {Float32Array} b
 * @param {number} bOffset
 * @param {number} n
 * @returns {number}
 */
export function dot(a, aOffset, b, bOffset, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[aOffset + i] * b[bOffset + i];
  return sum;
}

/**
 * A vector divided by its length; zeros stay.
 *
 * @param {Float32Array} vector (n,)
 * @returns {Float32Array} (n,)
 */
export function unit(vector) {
  const length = Math.sqrt(dot(vector, 0, vector, 0, vector.length));
  return vector.map((value) => value / (length || 1));
}

/**
 * Places of the k highest scores above -Infinity, highest first, ties by place.
 *
 * @param {Float32Array} scores (m,)
 * @param {number} k
 * @returns {number[]} (k,), fewer where there are fewer
 */
export function topK(scores, k) {
  /** @type {number[]} */
  const best = [];
  let worst = -Infinity; // to be beaten
  for (let place = 0; place < scores.length; place++) {
    const score = scores[place];
    if (!(score > worst)) continue;
    let low = 0;
    for (let high = best.length; low < high;) {
      const middle = (low + high) >> 1;
      if (scores[best[middle]] >= score) low = middle + 1;
      else high = middle;
    }
    best.splice(low, 0, place);
    if (best.length > k) best.pop();
    if (best.length === k) worst = scores[best[k - 1]];
  }
  return best;
}
