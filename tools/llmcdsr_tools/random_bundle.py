"""A valid bundle of any size without training: for benchmarks and tests of scale, not for advice.

What makes a search fast or slow, and an index good or bad, is how the item vectors lie and where the users
point. So the vectors are drawn to lie as those of a model trained on 36,298 items (H 64) do:

- clusters of very different sizes, none in both domains: to its nearest neighbour an item has a cosine of
  about 0.65 in the median, to a random item of about 0;
- few strong directions and many weak ones: the variances fall as ``rank ** -0.6``;
- skewed norms, median 0.53, the largest twice to three times that, popular items longer (correlation about
  0.55 with the logarithm of the count);
- counts: a log-normal distribution, median 6, the most popular of 36,298 items several hundred.

The other arrays are those of an untrained model, but for the weights of the last layer norm, which are
as large as trained ones. The residual path carries the last item to the user representation, so users
point at clusters, near the last item of the history, as those of a trained model do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle import ITEM_VECTORS, Bundle, write_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.reference.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.onnx_graph import build_onnx

DOMAINS = ("a", "b")
CLUSTER_ITEMS = 40  # on average
SPREAD = 1.05  # of an item around the centre of its cluster, relative to that of the centres
MEDIAN_NORM, NORM_DEVIATION, NORM_SKEW = 0.53, 0.13, 0.03  # log norm = log 0.53 + 0.13 z + 0.03 max(z, 0)²
MEDIAN_COUNT, COUNT_DEVIATION = 6.0, 1.05  # of the logarithm
POPULAR_ARE_LONG = 0.55  # correlation of the two logarithms
USER_SCALE = 3.5  # weights of the last layer norm
_NPY_HEADER = 128  # bytes before the data in a file of `numpy.save`
_CHUNK = 1 << 16  # rows drawn at a time: float64 on the way, float32 in the end


def write_random_bundle(
    folder: Path,
    n_items: tuple[int, int],
    *,
    hidden: int = 64,
    n_blocks: int = 2,
    n_heads: int = 1,
    max_length: int = 50,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a bundle of random, trained-like vectors.

    Parameters
    ----------
    folder : Path
    n_items : tuple of two int
        Items of domain A and of domain B, which are named "a" and "b"; their ids are ``a0``, ``a1``, ...
    hidden, n_blocks, n_heads, max_length : int
    seed : int
    overwrite : bool
        Replace a folder that is there.

    Raises
    ------
    UsageError
        If the sizes are not those of a model.
    DataError
        If the folder is there and must not be overwritten.
    """
    if min(n_items) < 1:
        raise UsageError(f"each domain needs an item, found {n_items[0]} and {n_items[1]}")
    try:
        config = SASRecConfig(sum(n_items), hidden, n_blocks, n_heads, max_length, dropout=0.0)
    except ValueError as error:
        raise UsageError(str(error)) from None
    rng = np.random.default_rng(seed)
    # drawn with two items: the table is of no use, and may be large
    small = SASRecParameters.initial(SASRecConfig(2, hidden, n_blocks, n_heads, max_length, dropout=0.0), rng)
    small.norm_weight[:] = USER_SCALE
    popularity = rng.normal(size=config.n_items)
    vectors = draw_item_vectors(n_items, hidden, popularity, rng)
    parameters = SASRecParameters(config, vectors, small.dense)
    counts = np.zeros(config.n_items + 1, dtype=np.int64)
    counts[1:] = 1 + MEDIAN_COUNT * np.exp(COUNT_DEVIATION * popularity)
    ids = [f"{name}{n}" for name, size in zip(DOMAINS, n_items, strict=True) for n in range(size)]
    catalogue = Catalogue.from_sizes(ids, [f"Item {item_id}" for item_id in ids], DOMAINS, n_items)
    bundle = Bundle(catalogue, parameters, counts, {"random": True, "seed": seed})
    write_bundle(
        bundle,
        folder,
        onnx_model=build_onnx(parameters, ITEM_VECTORS, _NPY_HEADER),
        model_card=f"# A random bundle\n\n{len(ids):,} items, seed {seed}: for benchmarks, knows nothing.\n",
        overwrite=overwrite,
    )


def draw_item_vectors(
    n_items: tuple[int, int], hidden: int, popularity: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Item vectors that lie as trained ones do, row 0 zero.

    Parameters
    ----------
    n_items : tuple of two int
    hidden : int
    popularity : float array (sum(n_items),)
        Standard normal.
    rng : Generator

    Returns
    -------
    float32 array (sum(n_items) + 1, hidden)
    """
    deviations = np.arange(1, hidden + 1) ** -0.3  # their squares fall as rank ** -0.6
    rotation = np.linalg.qr(rng.normal(size=(hidden, hidden)))[0]
    vectors = np.zeros((sum(n_items) + 1, hidden), dtype=np.float32)
    start = 1
    for size in n_items:
        n_clusters = max(1, size // CLUSTER_ITEMS)
        centres = rng.normal(size=(n_clusters, hidden)) * deviations
        shares = rng.lognormal(size=n_clusters)
        clusters = rng.choice(n_clusters, size, p=shares / shares.sum())
        for first in range(0, size, _CHUNK):
            drawn = clusters[first : first + _CHUNK]
            noise = rng.normal(size=(len(drawn), hidden)) * deviations * SPREAD
            vectors[start + first : start + first + len(drawn)] = (centres[drawn] + noise) @ rotation
        start += size
    kept = 1 - POPULAR_ARE_LONG**2
    mixed = POPULAR_ARE_LONG * popularity + np.sqrt(kept) * rng.normal(size=len(popularity))
    norms = MEDIAN_NORM * np.exp(NORM_DEVIATION * mixed + NORM_SKEW * np.maximum(mixed, 0) ** 2)
    vectors[1:] *= (norms / np.linalg.norm(vectors[1:], axis=1))[:, None].astype(np.float32)
    return vectors
