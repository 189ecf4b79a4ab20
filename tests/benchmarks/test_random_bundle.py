"""Random bundles: their geometry measured by other means than they are drawn by."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import DataError, UsageError
from random_bundle import write_random_bundle

SIZES = (4000, 1500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "bundle"
    write_random_bundle(path, SIZES, hidden=32, max_length=20, seed=3)
    return path


def test_the_bundle_has_the_sizes_asked_for_and_answers(folder: Path) -> None:
    recommender = Recommender.load(folder)
    assert [d.n_items for d in recommender.items.domains] == list(SIZES)
    assert recommender.bundle.item_vectors.shape == (1 + sum(SIZES), 32)
    assert recommender.bundle.parameters.config.max_length == 20
    answer = recommender.recommend(["a7", "b9", "a12"], domain="b", k=10)
    assert {item.domain for item in answer} == {"b"}
    other = Recommender.load(folder, backend="numpy").recommend(["a7", "b9", "a12"], domain="b", k=10)
    assert [item.id for item in answer] == [item.id for item in other]


def test_the_vectors_are_clustered_with_skewed_norms(folder: Path) -> None:
    bundle = Recommender.load(folder).bundle
    vectors = bundle.item_vectors[1:].astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    assert np.median(norms) == pytest.approx(0.53, abs=0.04)
    assert norms.max() / np.median(norms) > 1.8
    assert np.median(norms) / norms.min() < norms.max() / np.median(norms)  # the long tail is the upper one
    assert np.corrcoef(np.log(bundle.item_counts[1:]), norms)[0, 1] > 0.4
    cosines = vectors[:300] @ vectors.T / norms[:300, None] / norms
    np.fill_diagonal(cosines, -1)
    shuffled = np.random.default_rng(0).permuted(vectors, axis=0)  # the same values, no clusters
    unrelated = shuffled[:300] @ shuffled.T / np.outer(*[np.linalg.norm(shuffled, axis=1)] * 2)[:300]
    np.fill_diagonal(unrelated, -1)
    assert np.median(cosines.max(axis=1)) > np.median(unrelated.max(axis=1)) + 0.05
    assert abs(np.median(cosines)) < 0.1
    variances = np.linalg.svd(vectors, compute_uv=False) ** 2
    assert variances[:8].sum() / variances.sum() > 1.5 * 8 / 32  # few directions are strong


def test_users_point_near_their_last_item(folder: Path) -> None:
    recommender = Recommender.load(folder)
    vectors = recommender.bundle.item_vectors
    found = []
    for row in range(1, 200):
        history = [recommender.items.ids[row + 700], recommender.items.ids[row - 1]]
        answer = recommender.recommend(history, k=10)
        found.append(np.mean([vectors[recommender.items.row(item.id)] @ vectors[row] for item in answer]))
    everyone = vectors[1:] @ vectors[1:200].T
    assert np.mean(found) > np.quantile(everyone, 0.9)


def test_the_seed_decides(tmp_path: Path, folder: Path) -> None:
    write_random_bundle(tmp_path / "same", SIZES, hidden=32, max_length=20, seed=3)
    write_random_bundle(tmp_path / "other", SIZES, hidden=32, max_length=20, seed=4)
    for name in ("item_vectors.npy", "dense.npy", "item_counts.npy"):
        assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_sizes_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"each of 1 to 26 domains needs an item, found \[0, 3\]"):
        write_random_bundle(tmp_path / "none", (0, 3))
    with pytest.raises(UsageError, match="n_heads must divide hidden"):
        write_random_bundle(tmp_path / "heads", (2, 3), hidden=6, n_heads=4)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        write_random_bundle(tmp_path / "there", (2, 3))


@pytest.mark.parametrize("sizes", [(30,), (30, 20, 25)])
def test_members_and_a_mix(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    write_random_bundle(tmp_path / "made", sizes, hidden=8, n_heads=2, max_length=5, members=3, mix=True)
    bundle = read_bundle(tmp_path / "made")
    assert bundle.item_vectors.shape == (sum(sizes) + 1, 24)
    recommender = Recommender.load(tmp_path / "made")
    answer = recommender.recommend(["a3", "a4"], k=5, explain=True)
    assert answer.explanation is not None
    assert {"model", "next"} <= set(answer.explanation.shares)
    naive = Recommender.load(tmp_path / "made", backend="numpy")
    assert [item.id for item in naive.recommend(["a3", "a4"], k=5)] == [item.id for item in answer]


Command = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.mark.slow
def test_the_command(tmp_path: Path, llmcdsr: Command, script: Command) -> None:
    sizes = (
        "--items",
        "30",
        "--items",
        "20",
        "--hidden",
        "8",
        "--blocks",
        "1",
        "--heads",
        "2",
        "--max-length",
        "5",
    )
    assert script("random_bundle.py", tmp_path / "made", *sizes).returncode == 0
    shown = llmcdsr("inspect", tmp_path / "made").stdout.decode()
    assert "domain a: 30 items" in shown
    assert "hidden size 8, 1 blocks, 2 heads, histories up to 5 items" in shown
    again = script("random_bundle.py", tmp_path / "made", *sizes)
    assert (again.returncode, b"exists already" in again.stderr) == (1, True)
    far = script("random_bundle.py", tmp_path / "far", "--items", "99999999999")
    assert (far.returncode, b"is not in the range 1<=x<=10000000" in far.stderr) == (2, True)
