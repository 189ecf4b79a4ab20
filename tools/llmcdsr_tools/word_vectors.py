"""Title vectors without an encoder: hashed bags of words, reduced by a truncated SVD.

This is no language model. Two titles are near to each other if they share words, or words that occur in
the same titles, and that is all: a synonym in no common title is as far as any other word. It serves
where nothing may be downloaded, as for the demo world; with an encoder folder, use `embed`.

Every word is hashed to one of `N_BUCKETS` columns (CRC-32) and weighted by ``log(titles / titles that
have it)``; the rows are scaled to length 1 and reduced to their leading singular directions (randomised
subspace iteration; Halko, Martinsson and Tropp, 2011). All that is random comes from one fixed seed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, MissingDependencyError, UsageError, install_hint
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset

if TYPE_CHECKING:
    import scipy.sparse as sp

DIMENSION = 128
N_BUCKETS = 1 << 14
_OVERSAMPLING = 16
_N_ITERATIONS = 8
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class WordVectorsResult:
    """What `word_vectors` did.

    Parameters
    ----------
    output : Path
    n_items, dimension : int
        Shape of the matrix.
    n_wordless : int
        Rows of zeros: titles that are empty or have no word.
    """

    output: Path
    n_items: int
    dimension: int
    n_wordless: int


def word_vectors(
    dataset: str | Path | Dataset, output: str | Path, *, dimension: int = DIMENSION, overwrite: bool = False
) -> WordVectorsResult:
    """Write a matrix like that of `embed` for the titles of a data set.

    Parameters
    ----------
    dataset : str or Path or Dataset
        The data set folder, or what was read from it.
    output : str or Path
        Float32 ``.npy`` matrix (items, E): item row r of the catalogue is at index r - 1.
    dimension : int
        E at most; there are no more than titles.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    DataError
        If the data set cannot be read, or the output exists and must not be overwritten.
    UsageError
        If `dimension` is less than 1.
    MissingDependencyError
        If scipy is not installed.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Path(dataset)
    output = Path(output)
    if output.is_dir() or (output.exists() and not overwrite):
        raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")
    data = load_dataset(dataset) if isinstance(dataset, Path) else dataset
    vectors = WordEncoder.of_dataset(data, dimension).encode(data.catalogue.titles)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary, temporary.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)
    n_wordless = int((~vectors.any(axis=1)).sum())
    return WordVectorsResult(output, len(vectors), vectors.shape[1], n_wordless)


class WordEncoder:
    """The encoder behind `word_vectors`: for new titles and names, the words of a data set's titles.

    Made of the same titles it gives the same vectors, so a bundle that `fit` made without an encoder takes
    it: ``Recommender.load("bundle", encoder=WordEncoder.of_dataset("dataset"))``.

    Parameters
    ----------
    titles : sequence of str
    dimension : int
        E at most; there are no more than titles.

    Raises
    ------
    UsageError
        If `dimension` is less than 1.
    MissingDependencyError
        If scipy is not installed.
    """

    def __init__(self, titles: Sequence[str], dimension: int = DIMENSION) -> None:
        if dimension < 1:
            raise UsageError(f"dimension must be at least 1, found {dimension}")
        counts = bag_of_words(titles)  # (titles, buckets)
        n_titles, n_having = counts.shape[0], np.diff(counts.tocsc().indptr)
        # a word that all titles have is almost nothing
        self._weights = np.log(n_titles / np.maximum(n_having, 1)) + 1e-3
        weighted = self._weighted(counts)
        self._directions = _leading_directions(weighted, min(dimension, *weighted.shape))  # (buckets, E)

    @classmethod
    def of_dataset(cls, dataset: str | Path | Dataset, dimension: int = DIMENSION) -> WordEncoder:
        """Make the encoder of a data set's titles.

        Raises
        ------
        DataError
            If the data set cannot be read.
        """
        data = dataset if isinstance(dataset, Dataset) else load_dataset(Path(dataset))
        return cls(data.catalogue.titles, dimension)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of length 1, zeros for texts without a word that a title has: float32 (n, E)."""
        reduced = self._weighted(bag_of_words(texts)) @ self._directions
        lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
        vectors: npt.NDArray[np.float32] = (reduced / np.where(lengths > 1e-9, lengths, np.inf)).astype(
            np.float32
        )
        return vectors

    def _weighted(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        return _unit_rows(counts.multiply(self._weights).tocsr())


def bag_of_words(titles: Sequence[str]) -> sp.csr_matrix:
    """Which buckets each title's words fall into, once a word however often: (titles, buckets)."""
    try:
        import scipy.sparse as sp
    except ImportError as error:
        raise MissingDependencyError(f"{error}: {install_hint('train')}") from None
    buckets = [sorted({_bucket(word) for word in _WORD.findall(title.casefold())}) for title in titles]
    offsets = np.concatenate([[0], np.cumsum([len(b) for b in buckets])])
    columns = np.array([column for b in buckets for column in b], dtype=np.int64)
    return sp.csr_matrix((np.ones(len(columns)), columns, offsets), shape=(len(titles), N_BUCKETS))


def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % N_BUCKETS


def _unit_rows(matrix: Any) -> Any:
    """Rows of a sparse matrix scaled to length 1; empty rows stay."""
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return matrix.multiply(1 / np.where(lengths > 0, lengths, 1)[:, None]).tocsr()


def _leading_directions(matrix: Any, n: int) -> npt.NDArray[np.float64]:
    """The n leading right singular vectors of a sparse matrix (rows, columns): (columns, n)."""
    n_columns = matrix.shape[1]
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(n_columns, min(n + _OVERSAMPLING, *matrix.shape)))
    # empty columns have no part in any direction; a few stay where there are fewer others than directions
    kept = np.union1d(np.flatnonzero(np.diff(matrix.tocsc().indptr)), np.arange(basis.shape[1]))
    basis, matrix = basis[kept], matrix[:, kept]
    for _ in range(_N_ITERATIONS):
        basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
    image = matrix @ basis  # (rows, n + oversampling)
    values, vectors = np.linalg.eigh(image.T @ image)  # eigenvalues rise
    vectors = vectors * (values > 1e-12 * values[-1])  # beyond the rank they are arbitrary
    directions = basis @ vectors[:, ::-1][:, :n]
    # a singular vector's sign is arbitrary: fix it, so that every machine gets the same
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(n)])
    fixed = np.zeros((n_columns, n))
    fixed[kept] = directions * signs
    return fixed
