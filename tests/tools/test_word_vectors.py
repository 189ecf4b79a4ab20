"""Title vectors from words, against a dense SVD of a bag of words made by loops."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from demo_world.items import load_demo_items
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, MissingDependencyError, UsageError
from llmcdsr_tools.text_initialization import load_text_embeddings
from llmcdsr_tools.word_vectors import N_BUCKETS, WordEncoder, _leading_directions, word_vectors

TITLES = [
    "Red coffee mug",
    "Blue coffee mug, large",
    "Coffee coffee COFFEE",
    "Rice cooker (5 cups)",
    "Basmati rice",
    "",
    "!!!",
    "Crème brûlée torch",
    "red mug coffee",
]


def dense_weighted(titles: list[str]) -> Any:
    """The weighted bag of words as one dense matrix, entry by entry."""
    words = [set(re.findall(r"\w+", t.casefold())) for t in titles]
    matrix = np.zeros((len(titles), N_BUCKETS))
    for row, of_title in enumerate(words):
        for word in of_title:
            having = sum(word in other for other in words)
            matrix[row, zlib.crc32(word.encode()) % N_BUCKETS] = math.log(len(titles) / having) + 1e-3
        if of_title:
            matrix[row] /= np.linalg.norm(matrix[row])
    return matrix


def test_all_directions_keep_every_cosine() -> None:
    vectors = WordEncoder(TITLES, 100).encode(TITLES)
    assert vectors.dtype == np.float32
    assert vectors.shape == (9, 9)
    bag = dense_weighted(TITLES)
    np.testing.assert_allclose(vectors @ vectors.T, bag @ bag.T, atol=1e-5)
    assert not vectors[[5, 6]].any()
    assert vectors[0] @ vectors[8] == pytest.approx(1)  # word order and case do not matter
    assert vectors[0] @ vectors[1] > 0.1 > abs(vectors[0] @ vectors[3])


def test_new_titles_by_the_words_that_they_share() -> None:
    bag = dense_weighted(TITLES)
    encoder = WordEncoder(TITLES, 100)
    # in all directions a title's cosines are those of its known words, and unknown ones say nothing
    known, more, nothing = encoder.encode(["rice mug", "Rice, mug unheard-of?", "unheard"])
    titles = encoder.encode(TITLES)
    assert not nothing.any()
    np.testing.assert_allclose(known, more, atol=1e-6)
    having = {word: sum(word in t.casefold() for t in TITLES) for word in ("rice", "mug")}
    new = np.zeros(N_BUCKETS)
    for word, n in having.items():
        new[zlib.crc32(word.encode()) % N_BUCKETS] = math.log(len(TITLES) / n) + 1e-3
    _, values, right = np.linalg.svd(bag, full_matrices=False)
    seen = right[values > 1e-9] @ new  # only what titles span
    cosines = (bag @ right[values > 1e-9].T) @ (seen / np.linalg.norm(seen))
    np.testing.assert_allclose(titles @ known, cosines, atol=1e-5)


def test_the_leading_directions_are_as_good_as_those_of_an_exact_svd() -> None:
    bag = dense_weighted([item.title for item in load_demo_items().items])
    used = bag.any(axis=0)
    singular_values = np.linalg.svd(bag[:, used], compute_uv=False)
    directions = _leading_directions(sp.csr_matrix(bag), 24)
    np.testing.assert_allclose(directions.T @ directions, np.eye(24), atol=1e-10)
    kept = np.linalg.norm(bag @ directions, axis=0) ** 2  # what each direction keeps of the whole
    assert kept.sum() > 0.99 * (singular_values[:24] ** 2).sum()
    np.testing.assert_allclose(kept[:4], singular_values[:4] ** 2, rtol=0.01)
    assert (np.diff(kept) < 1e-9).all()


def test_it_is_written_as_embed_writes(small_world: Any, tmp_path: Path) -> None:
    output = tmp_path / "new" / "titles.npy"
    result = word_vectors(small_world.folder, output, dimension=8)
    assert (result.n_items, result.dimension, result.n_wordless) == (66, 8, 0)
    matrix = load_text_embeddings(output, 66)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    before = output.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        word_vectors(small_world.data, output, dimension=8)
    word_vectors(small_world.data, output, dimension=8, overwrite=True)
    assert output.read_bytes() == before
    assert [p.name for p in output.parent.iterdir()] == ["titles.npy"]


def test_titles_without_a_word_are_counted(small_world: Any, tmp_path: Path) -> None:
    catalogue = Catalogue.from_sizes("abc", ["pan", " ", "?"], ("A", "B"), (2, 1))
    result = word_vectors(replace(small_world.data, catalogue=catalogue), tmp_path / "t.npy")
    assert (result.n_items, result.n_wordless) == (3, 2)


def test_no_title_has_a_word() -> None:
    assert not WordEncoder(["", "-"], 2).encode(["", "new"]).any()


def test_what_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="dimension must be at least 1"):
        WordEncoder(TITLES, 0)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(MissingDependencyError, match=r"llmcdsr-lite\[train\]"):
        WordEncoder(TITLES)
