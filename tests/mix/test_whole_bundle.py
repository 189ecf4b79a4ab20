"""A bundle of members with a whole mix: new items, an index, and what a cluster ships answer as it does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.ensemble import SASRecEnsemble
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.score.scorer import Scorer
from llmcdsr_lite.text.title_neighbours import TitleMap

HISTORIES = [
    ["f1", "k2", "f1"],
    ["k4", "k5", "k4"],
    ["f2", "f3"],
    [],
    ["f9", "k17", "f8", "k1", "f2", "f3", "k2"],
]
COLD = ExpertWeights(next=0.5, popular=0.3, similar=2.0, inserted=0.5)
MIXES = (
    DomainMix(ExpertWeights(2.0, 1.0, 0.5), COLD, exclude_seen=False, source="companions", n_recalled=4),
    DomainMix(ExpertWeights(next=1.0), COLD, offset=0.25, offset_last=1.0),
)


@pytest.fixture(scope="module")
def folder(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    title_map: TitleMap,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    assert isinstance(bundle_data.parameters, SASRecParameters)
    other = SASRecParameters.initial(bundle_data.parameters.config, np.random.default_rng(1))
    other.item_embedding[1:] = np.random.default_rng(2).normal(size=(30, 8))
    every_other = [
        np.arange(start + row % 2, stop, 2) for start, stop in ((1, 13), (13, 31)) for row in range(31)
    ]
    rows = np.concatenate(every_other)
    counts = NextCounts(
        np.concatenate([[0], np.cumsum([len(one) for one in every_other])]),
        rows.astype(np.int32),
        np.random.default_rng(3).uniform(0.1, 1.0, len(rows)).astype(np.float32),
    )
    bundle = replace(
        bundle_data,
        parameters=SASRecEnsemble.of([bundle_data.parameters, other]),
        recall=recall_network,
        new_items=title_map,
        mix=MIXES,
        next_counts=counts,
    )
    return build_bundle(bundle, tmp_path_factory.mktemp("whole") / "bundle")


def answers(recommender: Recommender, domain: str | None, ids: Any = None) -> list[dict[str, float]]:
    """Scores of all items that are recommended, in order."""
    found = []
    for history in HISTORIES:
        answer = recommender.recommend(history, domain=domain, k=40, exclude=ids or ())
        found.append({item.id: item.score for item in answer})
    return found


def assert_alike(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        assert list(one.values()) == pytest.approx(list(other.values()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("domain", [None, "food", "kitchen"])
def test_backends_answer_alike_and_explanations_add_up(folder: Path, domain: str | None) -> None:
    numpy, onnx = (Recommender.load(folder, backend=name) for name in ("numpy", "onnx"))  # type: ignore[arg-type]
    assert_alike(answers(onnx, domain), answers(numpy, domain))
    told = set()
    for history in HISTORIES:
        answer = onnx.recommend(history, domain=domain, k=1, explain=True)
        assert answer.explanation is not None
        if history:
            assert sum(answer.explanation.shares.values()) == pytest.approx(answer[0].score, rel=1e-4)
        told |= set(answer.explanation.shares)
    assert {"model", "next"} <= told
    if domain is not None:  # else what is first is of the domain that needs no pseudo items
        assert {"similar", "inserted"} <= told


@pytest.mark.parametrize("domain", [None, "food", "kitchen"])
def test_old_items_keep_their_scores_among_new_ones(folder: Path, tmp_path: Path, domain: str | None) -> None:
    recommender = Recommender.load(folder)
    before = answers(recommender, domain)
    values: list[float] = np.random.default_rng(4).normal(size=7).tolist()
    new = [NewItem("f-new", "food", "x", values), NewItem("k-new", "kitchen", "y", values)]
    grown = recommender.add_items(new)
    for n, (found, expected) in enumerate(
        zip(answers(grown, domain, ["f-new", "k-new"]), before, strict=True)
    ):
        if n in (0, 4):  # with items of both domains: nothing is recalled, not even what is new
            assert_alike([found], [expected])
        assert found.keys() == expected.keys()
    grown.save(tmp_path / "grown")
    assert_alike(answers(Recommender.load(tmp_path / "grown"), domain), answers(grown, domain))
    assert read_bundle(tmp_path / "grown").mix == MIXES


@pytest.mark.parametrize("domain", [None, "food", "kitchen"])
def test_an_index_finds_what_exact_search_finds(folder: Path, tmp_path: Path, domain: str | None) -> None:
    pytest.importorskip("hnswlib", reason="hnswlib is not installed (it needs a compiler)")
    import shutil

    from llmcdsr_tools.index import IndexSettings, index

    shutil.copytree(folder, tmp_path / "indexed")
    index(tmp_path / "indexed", settings=IndexSettings(n_users=20))
    graph = Recommender.load(tmp_path / "indexed", search="hnsw")
    exact = Recommender.load(folder, search="exact")
    for history in HISTORIES:
        found, expected = (r.recommend(history, domain=domain, k=5) for r in (graph, exact))
        assert [item.id for item in found] == [item.id for item in expected]


def test_a_scorer_that_was_shipped_answers_as_the_recommender(folder: Path) -> None:
    """What Ray and Spark send to their workers."""
    scorer = pickle.loads(pickle.dumps(Scorer(folder, domain="kitchen", k=6)))
    answer = scorer({"user": [f"u{n}" for n in range(len(HISTORIES))], "history": HISTORIES})
    recommender = Recommender.load(folder)
    for items, history in zip(answer["items"], HISTORIES, strict=True):
        assert items == [item.id for item in recommender.recommend(history, domain="kitchen", k=6)]
