"""A valid bundle of any size without training: for benchmarks and tests of scale, not for advice.

What makes a search fast or slow, and an index good or bad, is how the item vectors lie and where the users
point. So the vectors are drawn to lie as those of a model trained on 36,298 items (H 64) do:

- clusters of clusters, of very different sizes, none in both domains: to its nearest neighbour an item has
  a cosine of about 0.67 in the mean, to the hundredth of 0.47, to a random item of 0;
- few strong directions and many weak ones: the variances fall as ``rank ** -0.6``;
- log-normal counts, median 6, the most popular of 36,298 items several hundred, much alike within a cluster;
- skewed norms, median 0.53, the largest two to three times that, popular items longer, and alike within a
  cluster, too: were they not, the best of a dot product would seldom be among the nearest by angle.

The other arrays are those of an untrained model, but for a feed-forward part that is smaller, attention
that is larger, and a last layer norm that is as large as trained ones are. The residual path carries the
last item to the user representation: the cosine of the two is about 0.7, as after training.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import ITEM_VECTORS, Bundle, write_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.cli.commands import FilePath, example
from llmcdsr_lite.cli.errors import Command
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.ensemble import Model, SASRecEnsemble
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.cli.options import overwrite_option, settings_options
from llmcdsr_tools.export.onnx_graph import build_onnx
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings

# Levels of clusters, fine to coarse: items in one, and shares of the variance of vectors and of popularity.
LEVELS = ((10, 0.20, 0.00), (100, 0.15, 0.35), (1000, 0.15, 0.40))
OWN_VECTOR, OWN_POPULARITY = 0.50, 0.25  # what is left to the item itself
MEDIAN_COUNT, COUNT_DEVIATION = 5.0, 1.15  # of the logarithm
# log norm = log 0.53 + 0.13 z + 0.03 max(z, 0)²; z is made of popularity, the cluster and the item
MEDIAN_NORM, NORM_DEVIATION, NORM_SKEW = 0.53, 0.13, 0.03
NORM_SHARES = (0.35, 0.25, 0.40)
USER_SCALE = 3.5  # weights of the last layer norm
_NPY_HEADER = 128  # bytes before the data in a file of `numpy.save`
N_NEXT = 50
MAX_ITEMS = 10_000_000  # of a domain: gigabytes of vectors
_CHUNK = 1 << 16  # rows drawn at a time: float64 on the way, float32 in the end


def write_random_bundle(
    folder: Path,
    n_items: Sequence[int],
    *,
    hidden: int = 64,
    n_blocks: int = 2,
    n_heads: int = 1,
    max_length: int = 50,
    members: int = 1,
    mix: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a bundle of random, trained-like vectors.

    Parameters
    ----------
    folder : Path
    n_items : sequence of int
        Items of each domain; the domains are named "a", "b" and so on, their items ``a0``, ``a1``, ...
    hidden, n_blocks, n_heads, max_length : int
    members : int
        Models in it; the others have the vectors of the first one, turned.
    mix : bool
        Whether it weighs next-item counts, repeats and recent items: of 50 random items after each one.
    seed : int
    overwrite : bool
        Replace a bundle that is there; no other folder is, unless it is empty.

    Raises
    ------
    UsageError
        If the sizes are not those of a model.
    DataError
        If the folder is there and must not be overwritten.
    """
    names = string.ascii_lowercase[: len(n_items)]
    if not 1 <= len(n_items) <= len(string.ascii_lowercase) or min(n_items) < 1:
        raise UsageError(f"each of 1 to 26 domains needs an item, found {list(n_items)}")
    try:
        config = SASRecConfig(sum(n_items), hidden, n_blocks, n_heads, max_length, dropout=0.0)
    except ValueError as error:
        raise UsageError(str(error)) from None
    rng = np.random.default_rng(seed)
    # drawn with two items: the table is of no use, and may be large
    small = SASRecParameters.initial(SASRecConfig(2, hidden, n_blocks, n_heads, max_length, dropout=0.0), rng)
    small.norm_weight[:] = USER_SCALE
    for block in small.blocks:
        block.output_weight[:] *= 2
        block.inner_bias[:] -= 0.3
        block.outer_weight[:] *= 0.7
        block.outer_bias[:] = 0
    vectors, popularity = draw_items(n_items, hidden, rng)
    parameters: Model = SASRecParameters(config, vectors, small.dense)
    if members > 1:
        turns = [np.linalg.qr(rng.normal(size=(hidden, hidden)))[0] for _ in range(members - 1)]
        turned = [(vectors @ turn).astype(np.float32) for turn in turns]
        parameters = SASRecEnsemble.of([SASRecParameters(config, v, small.dense) for v in (vectors, *turned)])
    counts = np.zeros(config.n_items + 1, dtype=np.int64)
    counts[1:] = 1 + MEDIAN_COUNT * np.exp(COUNT_DEVIATION * popularity)
    ids = [f"{name}{n}" for name, size in zip(names, n_items, strict=True) for n in range(size)]
    catalogue = Catalogue.from_sizes(ids, [f"Item {item_id}" for item_id in ids], list(names), n_items)
    weights = ExpertWeights(next=1.0, repeat=0.5, recent=0.5)
    bundle = Bundle(
        catalogue,
        parameters,
        counts,
        {"random": True, "seed": seed},
        mix=(DomainMix(weights, weights),) * len(n_items) if mix else (),
        next_counts=draw_counts(catalogue, counts, rng) if mix else None,
    )
    write_bundle(
        bundle,
        folder,
        onnx_model=build_onnx(parameters, ITEM_VECTORS, _NPY_HEADER),
        model_card=f"# A random bundle\n\n{len(ids):,} items, seed {seed}: for benchmarks, knows nothing.\n",
        overwrite=overwrite,
    )


def draw_counts(catalogue: Catalogue, counts: npt.NDArray[np.int64], rng: np.random.Generator) -> NextCounts:
    """Up to `N_NEXT` items of each domain after every item, the popular ones more often."""
    cumulated = np.cumsum(counts)
    lengths, rows = [], []
    for domain in catalogue.domains:
        low, high = cumulated[domain.start - 1], cumulated[domain.stop - 1]
        drawn = np.searchsorted(cumulated, rng.integers(low, high, (len(catalogue), N_NEXT)), side="right")
        drawn.sort(axis=1)
        kept = np.concatenate([np.ones((len(drawn), 1), bool), drawn[:, 1:] != drawn[:, :-1]], axis=1)
        lengths += [0, *kept.sum(axis=1).tolist()]  # nothing comes after padding
        rows.append(drawn[kept].astype(np.int32))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return NextCounts(starts, np.concatenate(rows), rng.uniform(0.01, 1, starts[-1]).astype(np.float32))


def draw_items(
    n_items: Sequence[int], hidden: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Item vectors and popularity that lie as trained ones do.

    Parameters
    ----------
    n_items : sequence of int
    hidden : int
    rng : Generator

    Returns
    -------
    vectors : float32 array (sum(n_items) + 1, hidden)
        Row 0 is zero.
    popularity : float array (sum(n_items),)
        Standard normal.
    """
    deviations = np.arange(1, hidden + 1) ** -0.3  # their squares fall as rank ** -0.6
    rotation = np.linalg.qr(rng.normal(size=(hidden, hidden)))[0]
    vectors = np.zeros((sum(n_items) + 1, hidden), dtype=np.float32)
    popularity = np.empty(sum(n_items))
    norms = np.empty(sum(n_items))
    start = 0
    for size in n_items:
        domain = slice(start, start + size)
        clusters = draw_clusters(size, rng)
        centres = [np.sqrt(share) * rng.normal(size=(c.max() + 1, hidden)) for c, (_, share, _) in clusters]
        popular = np.sqrt(OWN_POPULARITY) * rng.normal(size=size)
        for c, (_, _, share) in clusters:
            popular += np.sqrt(share) * rng.normal(size=c.max() + 1)[c]
        popularity[domain] = popular
        common = clusters[1][0]
        parts = (popular, rng.normal(size=common.max() + 1)[common], rng.normal(size=size))
        norms[domain] = sum(np.sqrt(share) * part for share, part in zip(NORM_SHARES, parts, strict=True))
        for first in range(0, size, _CHUNK):
            chunk = slice(first, min(first + _CHUNK, size))
            drawn = np.sqrt(OWN_VECTOR) * rng.normal(size=(chunk.stop - first, hidden))  # (chunk, H)
            for (c, _), centre in zip(clusters, centres, strict=True):
                drawn += centre[c[chunk]]
            vectors[1 + start + first : 1 + start + chunk.stop] = drawn * deviations @ rotation
        start += size
    norms = MEDIAN_NORM * np.exp(NORM_DEVIATION * norms + NORM_SKEW * np.maximum(norms, 0) ** 2)
    vectors[1:] *= (norms / np.linalg.norm(vectors[1:], axis=1))[:, None].astype(np.float32)
    return vectors, popularity


def draw_clusters(
    size: int, rng: np.random.Generator
) -> list[tuple[npt.NDArray[np.int64], tuple[int, float, float]]]:
    """Cluster of every item (size,) at each of `LEVELS`: a cluster lies in one of the next level."""
    clusters = []
    of_items = np.arange(size)
    for level in LEVELS:
        n_clusters = max(1, size // level[0])
        shares = rng.lognormal(size=n_clusters)
        parents = rng.choice(n_clusters, of_items.max() + 1, p=shares / shares.sum())
        of_items = parents[of_items]
        clusters.append((of_items, level))
    return clusters


@click.command(cls=Command)
@click.argument("output", type=FilePath)
@click.option(
    "--items",
    "n_items",
    multiple=True,
    type=click.IntRange(1, MAX_ITEMS),
    required=True,
    metavar="N",
    help="Items of a domain; give one number for each.",
)
@settings_options(PretrainSettings, only=("hidden", "n_blocks", "n_heads", "max_length"))
@click.option("--members", type=click.IntRange(1, 64), default=1, show_default=True, help="Models in it.")
@click.option("--mix", is_flag=True, help="Weigh next-item counts, repeats and recent items, too.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@overwrite_option
@example("python benchmarks/random_bundle.py random --items 29207 --items 7091")
def main(
    output: Path,
    n_items: tuple[int, ...],
    members: int,
    mix: bool,
    seed: int,
    overwrite: bool,
    **sizes: int,
) -> None:
    """Write a bundle of random vectors to OUTPUT, for benchmarks.

    Its vectors lie as trained ones do: in clusters, with skewed norms. It knows nothing of any item.
    """
    write_random_bundle(output, n_items, **sizes, members=members, mix=mix, seed=seed, overwrite=overwrite)


if __name__ == "__main__":
    main()
