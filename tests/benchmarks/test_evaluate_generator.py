"""Recall of generators, against loops over users, names and titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import PLACES, E, make_texts, make_tiny_model, write_encoder

import evaluate_generator as stage
from evaluate_generator import (
    GeneratorRecall,
    evaluate_generator,
    format_generator_results,
)
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_tools.cold_histories import ColdHistory, cold_histories
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.names import GeneratedNames, write_names
from llmcdsr_tools.neighbours import neighbour_names

N_A, N_B = 60, 80
PER_NAME, N_ITEMS = 3, 12


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "ITEMS_PER_NAME", PER_NAME)
    monkeypatch.setattr(stage, "N_ITEMS", N_ITEMS)
    monkeypatch.setattr(stage, "N_LOOKED_UP", 4)


@pytest.fixture
def dataset() -> Dataset:
    rng = np.random.default_rng(8)
    titles = [f"title {n}" for n in range(N_A + N_B)]
    catalogue = Catalogue.from_sizes(
        [f"i{n}" for n in range(N_A + N_B)], titles, ("food", "kitchen"), (N_A, N_B)
    )

    def histories(n: int) -> list[list[int]]:
        return [[int(r) for r in rng.zipf(1.3, 12) * 7 % (N_A + N_B) + 1] for _ in range(n)]

    def pack(name: str, n: int) -> Histories:
        return Histories.from_lists(histories(n), [f"{name}{i}" for i in range(n)])

    return Dataset(catalogue, pack("t", 80), pack("v", 30), pack("w", 5))


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "titles.npy"
    text = np.random.default_rng(4).normal(size=(N_A + N_B, E)).astype(np.float32) * 3
    text[[2, 90]] = 0  # without a title
    np.save(path, text)
    return path


def cosines(vector: np.ndarray, text: np.ndarray) -> list[float]:
    lengths = [np.linalg.norm(row) * np.linalg.norm(vector) for row in text]
    return [
        float(row @ vector) / length if length else 0.0 for row, length in zip(text, lengths, strict=True)
    ]


def nearest(vector: np.ndarray, text: np.ndarray, domain: int, k: int) -> list[int]:
    """Rows of a domain, most similar first."""
    rows = range(1, N_A + 1) if domain == 0 else range(N_A + 1, N_A + N_B + 1)
    similar = cosines(vector, text)
    return sorted(rows, key=lambda row: (-round(similar[row - 1], 6), row))[:k]


def in_turns(lists: list[list[int]]) -> list[int]:
    found: list[int] = []
    for turn in range(PER_NAME):
        for one in lists:
            if one[turn] not in found:
                found.append(one[turn])
    return found


def share(history: ColdHistory, found: list[int], k: int) -> float:
    hidden = set(history.hidden.tolist())
    return len(hidden & set(found[:k])) / len(hidden)


def one(results: list[GeneratorRecall], generator: str, domain: str) -> GeneratorRecall:
    (found,) = [r for r in results if (r.generator, r.domain) == (generator, domain)]
    return found


@pytest.mark.parametrize("domain", [0, 1])
def test_recall_is_that_of_the_loops(dataset: Dataset, matrix: Path, tmp_path: Path, domain: int) -> None:
    save_dataset(dataset, tmp_path / "dataset")
    results = evaluate_generator(tmp_path / "dataset", matrix, n_neighbors=5, n_names=6)
    text = np.load(matrix).astype(np.float64)
    name = ("food", "kitchen")[domain]
    histories = [h for h in cold_histories(dataset, "valid") if h.domain == domain]
    assert len(histories) > 20
    counts = np.bincount(dataset.train.rows, minlength=len(text) + 1)
    rows = range(1, N_A + 1) if domain == 0 else range(N_A + 1, N_A + N_B + 1)
    popular = sorted(rows, key=lambda row: (-counts[row], row))[:N_ITEMS]
    names = list(
        neighbour_names(
            dataset,
            [h.rows for h in histories],
            domain,
            [h.user for h in histories],
            n_neighbors=5,
            n_names=N_ITEMS,
        )
    )
    found: dict[str, list[list[int]]] = {
        "popular": [popular] * len(histories),
        "centroid": [],
        "neighbours": [],
        f"neighbours, {N_ITEMS} titles": [],
    }
    unit = text / np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-12)
    for history, written in zip(histories, names, strict=True):
        mean = np.mean([unit[row - 1] for row in history.rows], axis=0)
        found["centroid"].append(nearest(mean, text, domain, N_ITEMS))
        of_names = [int(title.split()[1]) for title in written]
        lists = [nearest(text[i], text, domain, PER_NAME) for i in of_names]
        found["neighbours"].append(in_turns(lists[:4]))
        found[f"neighbours, {N_ITEMS} titles"].append(list(dict.fromkeys(one[0] for one in lists)))
    for generator, of_users in found.items():
        result = one(results, generator, name)
        at10 = [share(h, f, 10) for h, f in zip(histories, of_users, strict=True)]
        at_all = [share(h, f, N_ITEMS) for h, f in zip(histories, of_users, strict=True)]
        assert result.n_users == len(histories)
        assert result.n_hidden == pytest.approx(np.mean([len(set(h.hidden.tolist())) for h in histories]))
        assert result.n_items == pytest.approx(np.mean([len(f[:N_ITEMS]) for f in of_users]))
        assert result.recall10 == pytest.approx(np.mean(at10)), generator
        assert result.recall100 == pytest.approx(np.mean(at_all)), generator
        assert result.error100 == pytest.approx(np.std(at_all, ddof=1) / len(histories) ** 0.5)
        assert result.hit100 == pytest.approx(np.mean([s > 0 for s in at_all]))
    assert one(results, "neighbours", name).n_names == pytest.approx(np.mean([min(6, len(n)) for n in names]))
    assert one(results, "popular", name).recall100 > one(results, "random", name).recall100


def test_random_items_find_what_chance_does(dataset: Dataset, matrix: Path) -> None:
    results = [one(evaluate_generator(dataset, matrix, seed=seed), "random", "kitchen") for seed in range(20)]
    assert np.mean([r.recall100 for r in results]) == pytest.approx(N_ITEMS / N_B, rel=0.15)
    assert len({r.recall100 for r in results}) > 10
    assert {r.n_items for r in results} == {N_ITEMS}


def test_a_names_file_is_measured_beside_the_others_on_its_users(
    dataset: Dataset, matrix: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(tmp_path / "encoder", make_tiny_model())
    histories = [h for h in cold_histories(dataset, "valid") if h.domain == 1][:7]
    texts = make_texts(7 * 5)
    written = [tuple(dict.fromkeys(texts[5 * i : 5 * i + 5])) for i in range(7)]
    names = tmp_path / "names.jsonl"
    write_names(
        names,
        [GeneratedNames(h.user, "kitchen", w, "gemma") for h, w in zip(histories, written, strict=True)],
    )
    results = evaluate_generator(dataset, matrix, names=names, encoder=encoder)
    text = np.load(matrix).astype(np.float64)
    vectors = [make_tiny_model().vectors(list(w[:4]), max_length=PLACES) for w in written]
    found = [in_turns([nearest(v, text, 1, PER_NAME) for v in of_user]) for of_user in vectors]
    expected = np.mean([share(h, f, N_ITEMS) for h, f in zip(histories, found, strict=True)])
    result = one(results, "gemma", "kitchen")
    assert result.recall100 == pytest.approx(expected)
    assert result.n_names == pytest.approx(np.mean([len(w) for w in written]))
    assert {r.n_users for r in results if r.domain == "kitchen"} == {7}  # all on the same users
    assert {r.n_users for r in results if r.domain == "food"} == {0}
    table = format_generator_results(results).splitlines()
    assert table[0].split()[:4] == ["hidden", "domain", "generator", "users"]
    assert len(table) == 1 + len(results)
    assert any(line.split()[:3] == ["kitchen", "gemma", "7"] for line in table)


def test_errors_name_what_is_wrong(dataset: Dataset, matrix: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.jsonl"
    for user, domain in (("t1", "food"), ("v1", "garden"), ("w1", "food")):
        write_names(names, [GeneratedNames(user, domain, ("a",), "g")])
        with pytest.raises(DataError, match=f"names.jsonl: user '{user}' with '{domain}' hidden is none of"):
            evaluate_generator(dataset, matrix, names=names)
    with pytest.raises(UsageError, match="split is 'train'"):
        evaluate_generator(dataset, matrix, split="train")
    write_names(names, [GeneratedNames("v1", "kitchen", ("a new thing",), "g")])
    with pytest.raises(UsageError, match="no title of the catalogue, such as 'a new thing'"):
        evaluate_generator(dataset, matrix, names=names)
