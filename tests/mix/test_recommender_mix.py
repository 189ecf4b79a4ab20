"""A bundle with a mix of experts: what is read is what was written, and every backend answers alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_damage import refusal, set_field

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.mixture import Mixture
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.ensemble import SASRecEnsemble
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.new_items import _grown_counts

N_ROWS = 31
MIXES = (
    DomainMix(ExpertWeights(2.0, 1.0, 0.5), ExpertWeights(next=3.0), exclude_seen=False),
    DomainMix(ExpertWeights(next=1.0), ExpertWeights(), offset=0.25, offset_last=1.0),
)


def some_counts() -> NextCounts:
    rng = np.random.default_rng(2)
    sizes, rows = [], []
    for start, stop in ((1, 13), (13, 31)):
        for _ in range(N_ROWS):
            own = np.flatnonzero(rng.random(stop - start) < 0.3) + start
            sizes.append(len(own))
            rows.append(own)
    flat = np.concatenate(rows)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return NextCounts(starts, flat.astype(np.int32), (rng.random(len(flat)) + 0.1).astype(np.float32))


@pytest.fixture(scope="module")
def mixed(bundle_data: Bundle) -> Bundle:
    return replace(bundle_data, mix=MIXES, next_counts=some_counts())


@pytest.fixture(scope="module")
def mixed_folder(
    mixed: Bundle, build_bundle: Callable[[Bundle, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return build_bundle(mixed, tmp_path_factory.mktemp("mixed") / "bundle")


def test_what_is_written_is_read(mixed: Bundle, mixed_folder: Path) -> None:
    found = read_bundle(mixed_folder)
    assert found.mix == MIXES
    assert found.next_counts is not None
    assert mixed.next_counts is not None
    for name in ("starts", "rows", "weights"):
        array, expected = getattr(found.next_counts, name), getattr(mixed.next_counts, name)
        assert array.dtype == expected.dtype
        assert array.tolist() == expected.tolist()


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
@pytest.mark.parametrize("domain", [None, "food", "kitchen"])
def test_answers_are_scores_of_all_items(
    mixed: Bundle, mixed_folder: Path, backend: Any, domain: Any
) -> None:
    recommender = Recommender.load(mixed_folder, backend=backend)
    plain = Recommender.load(mixed_folder, backend="numpy")
    mixture = Mixture(mixed.catalogue, mixed.mix, mixed.next_counts)
    rows = np.arange(1, N_ROWS)
    start, stop = {None: (1, 31), "food": (1, 13), "kitchen": (13, 31)}[domain]
    for history in (["f1", "k2", "f1", "f3"], ["k4", "k5"], ["f2"], ["f3", "k1"]):
        known = np.array([mixed.catalogue.row(item) for item in history])
        user = plain._ranking.backend.represent([known])[0].astype(np.float64)
        bonus = mixture.bonus(known, start, stop)
        assert bonus is not None
        scores = mixed.item_vectors[1:].astype(np.float64) @ user + bonus.of(rows)
        for exclude_seen, left_out in ((None, range(13, 31)), (True, range(1, 31)), (False, range(0))):
            seen = {row for row in known.tolist() if row in left_out}
            expected = sorted(
                (row for row in range(start, stop) if row not in seen), key=lambda row: -scores[row - 1]
            )
            found = recommender.recommend(history, domain=domain, k=8, exclude_seen=exclude_seen)
            assert [item.id for item in found] == [mixed.catalogue.ids[row - 1] for row in expected[:8]]
            assert [item.score for item in found] == pytest.approx(
                [scores[r - 1] for r in expected[:8]], rel=1e-4
            )


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
def test_popularity_counts_for_those_without_items_of_the_domain(
    mixed: Bundle, build_bundle: Callable[[Bundle, Path], Path], tmp_path: Path, backend: Any
) -> None:
    weight = 0.75
    mix = (DomainMix(cold=ExpertWeights(popular=weight)), DomainMix(cold=ExpertWeights(1.0, popular=weight)))
    before = (DomainMix(), DomainMix(cold=ExpertWeights(1.0)))
    popular, plain = (
        Recommender.load(build_bundle(replace(mixed, mix=one), tmp_path / name), backend=backend)
        for name, one in (("popular", mix), ("plain", before))
    )
    logs = {item: np.log1p(int(mixed.item_counts[row])) for row, item in enumerate(mixed.catalogue.ids, 1)}
    for history in (["f1", "f2"], ["k1"], ["f1", "k2"], []):
        for domain, letter in (("food", "f"), ("kitchen", "k"), (None, "fk")):
            cold = [own for own in letter if history and not any(item[0] == own for item in history)]
            found, without = (scores_of(r, history, domain) for r in (popular, plain))
            for item, score in found.items():
                added = weight * logs[item] if item[0] in cold else 0.0
                assert score == pytest.approx(without[item] + added, rel=1e-4, abs=1e-5)
            assert list(found.values()) == sorted(found.values(), reverse=True)
            if cold and domain is not None:
                told = popular.recommend(history, domain=domain, k=1, explain=True).explanation
                assert told is not None
                top = next(iter(found))
                assert told.shares.get("popular", 0.0) == pytest.approx(weight * logs[top], rel=1e-4)


def scores_of(recommender: Recommender, history: list[str], domain: str | None) -> dict[str, float]:
    answer = recommender.recommend(history, domain=domain, k=30, exclude_seen=False)
    return {item.id: item.score for item in answer}


def test_a_batch_answers_as_one_at_a_time(mixed_folder: Path) -> None:
    recommender = Recommender.load(mixed_folder)
    histories = [["f1", "k2", "f1"], ["k4", "k5"], [], ["f2"]]
    batch = recommender.recommend_batch(histories, k=5)
    for history, ids in zip(histories, batch.ids.tolist(), strict=True):
        assert ids == [item.id for item in recommender.recommend(history, k=5)]


def test_the_explanation_adds_up(mixed_folder: Path) -> None:
    recommender = Recommender.load(mixed_folder)
    for domain in (None, "food", "kitchen"):
        found = recommender.recommend(["f1", "k2", "f1"], domain=domain, k=1, explain=True)
        assert found.explanation is not None
        assert sum(found.explanation.shares.values()) == pytest.approx(found[0].score, rel=1e-5)
        assert found.explanation.shares["model"]
    told = [i.change for i in found.explanation.history]
    without = recommender.recommend(["k2", "f1"], domain="kitchen", k=30, exclude_seen=False)
    score = next(item.score for item in without if item.id == found[0].id)
    assert told[0] == pytest.approx(found[0].score - score, rel=1e-4, abs=1e-5)


def test_exclude_seen_that_cannot_be_meant(mixed_folder: Path) -> None:
    other: Any = "yes"
    with pytest.raises(UsageError, match="exclude_seen is 'yes', expected True, False or None"):
        Recommender.load(mixed_folder).recommend(["f1"], exclude_seen=other)


def test_new_items_move_the_counts(mixed: Bundle) -> None:
    assert mixed.next_counts is not None
    grown = _grown_counts(mixed.next_counts, np.array([13, 31, 13]), 2)  # two of food, one of kitchen
    moved = np.concatenate([np.arange(13), np.arange(15, 33)])  # old row to new row
    assert len(grown.starts) == 2 * 34 + 1
    for index in range(2):
        for row in range(34):
            begin, end = grown.starts[index * 34 + row : index * 34 + row + 2]
            old = np.flatnonzero(moved == row)
            if not len(old):
                assert begin == end
                continue
            first, last = mixed.next_counts.starts[index * 31 + old[0] : index * 31 + old[0] + 2]
            assert grown.rows[begin:end].tolist() == moved[mixed.next_counts.rows[first:last]].tolist()
            assert grown.weights[begin:end].tolist() == mixed.next_counts.weights[first:last].tolist()


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["mix"], {}, "field 'mix' must list 2 domains"),
        (["mix", 0, "warm", "next"], -1.0, "next is -1.0, expected a number from 0"),
        (["mix", 0, "warm", "next"], 1, "next is 1, expected a number"),
        (["mix", 0, "warm", "best"], 1.0, "unexpected keyword argument 'best'"),
        (["mix", 1, "exclude_seen"], 1, "exclude_seen is 1, expected true or false"),
        (["mix", 1, "offset"], 1e9, "offset is 1000000000.0, expected a number"),
        (["mix", 1, "validation"], [], "validation must be an object"),
        (["mix", 0, "cold"], {"next": 1.0, "repeat": 0.0}, "field 'mix' has no field 'inserted'"),
    ],
)
def test_a_wrong_mix_is_refused(
    mixed_folder: Path, tmp_path: Path, keys: list[Any], value: Any, message: str
) -> None:
    import shutil

    folder = shutil.copytree(mixed_folder, tmp_path / "bundle")
    set_field(folder, keys, value)
    assert message in refusal(folder)


def replaced(counts: NextCounts, **arrays: Any) -> NextCounts:
    return replace(counts, **arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replaced(c, starts=c.starts[:-1]), "next_starts.npy: int64 array of shape"),
        (lambda c: replaced(c, starts=c.starts + 1), "next_starts.npy: must rise from 0"),
        (lambda c: replaced(c, rows=c.rows[:-1]), "next_rows.npy: int32 array of shape"),
        (
            lambda c: replaced(c, rows=np.where(c.rows == 20, 2, c.rows)),
            "next_rows.npy: rows 2 to 30 for 'kitchen'",
        ),
        (lambda c: replaced(c, rows=c.rows[::-1].copy()), "next_rows.npy: rows"),
        (lambda c: replaced(c, weights=-c.weights), "next_weights.npy: holds -"),
    ],
)
def test_counts_that_cannot_be_meant(
    mixed: Bundle,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
    change: Callable[[NextCounts], NextCounts],
    message: str,
) -> None:
    assert mixed.next_counts is not None
    with pytest.raises(BundleError) as error:
        build_bundle(replace(mixed, next_counts=change(mixed.next_counts)), tmp_path / "bundle")
    assert message in str(error.value)
    with pytest.raises(BundleError, match="weighs next-item counts, but 'files' does not list"):
        build_bundle(replace(mixed, next_counts=None), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def members(bundle_data: Bundle) -> list[SASRecParameters]:
    assert isinstance(bundle_data.parameters, SASRecParameters)
    models = [bundle_data.parameters]
    for seed in (1, 2):
        other = SASRecParameters.initial(bundle_data.parameters.config, np.random.default_rng(seed))
        other.item_embedding[1:] = np.random.default_rng(seed + 5).normal(size=(30, 8))
        models.append(other)
    return models


def test_members_answer_with_the_mean_of_their_scores(
    mixed: Bundle,
    members: list[SASRecParameters],
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
) -> None:
    ensemble = SASRecEnsemble.of(members)
    folder = build_bundle(
        replace(mixed, parameters=ensemble, mix=(DomainMix(), DomainMix())), tmp_path / "all"
    )
    singles = [
        build_bundle(replace(mixed, parameters=one, mix=(DomainMix(), DomainMix())), tmp_path / str(n))
        for n, one in enumerate(members)
    ]
    found = read_bundle(folder)
    assert len(found.parameters.members) == 3
    assert found.item_vectors.shape == (31, 24)
    histories = [["f1", "k2", "f1"], ["k4"], ["f2", "f3", "k1", "k2", "k3", "f9", "f8"]]
    for backend in ("onnx", "numpy"):
        together = Recommender.load(folder, backend=backend)  # type: ignore[arg-type]
        apart = [Recommender.load(single, backend="numpy") for single in singles]
        for history in histories:
            mean = np.mean([scores_by_id(one, history) for one in apart], axis=0)
            np.testing.assert_allclose(scores_by_id(together, history), mean, rtol=1e-4, atol=1e-5)


def scores_by_id(recommender: Recommender, history: list[str]) -> list[float]:
    answer = recommender.recommend(history, k=30, exclude_seen=False)
    return [item.score for item in sorted(answer, key=lambda item: item.id)]


def test_members_must_fit(mixed: Bundle, members: list[SASRecParameters]) -> None:
    config = replace(members[0].config, hidden=4)
    with pytest.raises(ValueError, match="members must be of one size"):
        SASRecEnsemble.of([members[0], SASRecParameters.zeros(config)])
    with pytest.raises(ValueError, match="columns a member"):
        SASRecEnsemble(members[0].config, members[0].item_embedding, np.tile(members[0].dense, 2))


def test_a_number_of_members_that_does_not_fit(
    mixed: Bundle,
    members: list[SASRecParameters],
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
) -> None:
    folder = build_bundle(replace(mixed, parameters=SASRecEnsemble.of(members)), tmp_path / "all")
    set_field(folder, ["model", "members"], 2)
    assert "item_vectors.npy: float32 array of shape (31, 24), expected float32 (31, 16)" in refusal(folder)
    set_field(folder, ["model", "members"], 0)
    assert "members" in refusal(folder)
