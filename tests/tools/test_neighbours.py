"""The generator without a language model, against the formula written out over Python sets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import UsageError
from llmcdsr_tools import neighbours as stage
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.names import read_names
from llmcdsr_tools.neighbours import neighbour_names, neighbours

N_A, N_B = 12, 16


def make_dataset(histories: list[list[int]], titles: list[str] | None = None) -> Dataset:
    titles = titles or [f"title {n}" for n in range(N_A + N_B)]
    catalogue = Catalogue.from_sizes(
        [f"i{n}" for n in range(N_A + N_B)], titles, ("food", "kitchen"), (N_A, N_B)
    )
    train = Histories.from_lists(histories, [f"u{n}" for n in range(len(histories))])
    held_out = Histories.from_lists([[1, N_A + 1]], ["v"])
    return Dataset(catalogue, train, held_out, held_out)


@pytest.fixture
def dataset() -> Dataset:
    rng = np.random.default_rng(3)
    histories = []
    for user in range(90):
        kinds = [(1, N_A + 1), (N_A + 1, N_A + N_B + 1), (1, N_A + N_B + 1)][user % 3]
        histories.append(rng.integers(*kinds, size=rng.integers(2, 7)).tolist())
    titles = [f"title {n}" for n in range(N_A + N_B)]
    titles[3], titles[N_A + 2], titles[N_A + 9] = "", " ", titles[N_A + 1]  # none, blank, the same twice
    return make_dataset(histories, titles)


def by_the_formula(
    data: Dataset, history: list[int], domain: int, user: str | None, n_neighbors: int
) -> dict[str, float]:
    """Score of every title, as the module's text has it, without its ordering."""
    wanted = data.catalogue.domains[domain]
    source = {*range(1, N_A + N_B + 1)} - {*range(wanted.start, wanted.stop)}
    sets = [set(h.tolist()) for h in data.train]
    idf = {i: math.log(len(sets) / max(1, sum(i in s for s in sets))) for i in source}

    def length(items: set[int]) -> float:
        return math.sqrt(sum(idf[i] ** 2 for i in items))

    query = set(history) & source
    similar = []
    for place, items in enumerate(sets):
        mine = items & source
        if mine and items - mine and data.train.users[place] != user and query & mine:
            cosine = sum(idf[i] ** 2 for i in query & mine) / length(query) / length(mine)
            similar.append((cosine, place))
    similar.sort(key=lambda pair: (-round(pair[0], 9), pair[1]))
    scores: dict[str, float] = {}
    for cosine, place in similar[:n_neighbors]:
        for title in {data.catalogue.titles[i - 1] for i in sets[place] - source}:
            if title.strip():
                scores[title] = scores.get(title, 0) + cosine
    return scores


def of_three(data: Dataset) -> Dataset:
    """The same items and histories, the second domain parted in two of 7 and 9 items."""
    catalogue = data.catalogue
    names, sizes = ("food", "kitchen", "garden"), (N_A, 7, 9)
    return replace(data, catalogue=Catalogue.from_sizes(catalogue.ids, catalogue.titles, names, sizes))


@pytest.mark.parametrize("n_neighbors", [1, 4, 500])
@pytest.mark.parametrize(("domain", "n_domains"), [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)])
def test_names_are_those_of_the_formula(
    dataset: Dataset, domain: int, n_domains: int, n_neighbors: int
) -> None:
    dataset = of_three(dataset) if n_domains == 3 else dataset
    histories = [h for h in dataset.train if len(h)]
    users = list(dataset.train.users)
    found = list(neighbour_names(dataset, histories, domain, users, n_neighbors=n_neighbors, n_names=5))
    assert len(found) == len(users)
    n_some = 0
    for history, user, names in zip(histories, users, found, strict=True):
        scores = by_the_formula(dataset, history.tolist(), domain, user, n_neighbors)
        assert len(names) == len(set(names)) == min(5, len(scores))
        expected = sorted(scores.values(), reverse=True)[: len(names)]
        np.testing.assert_allclose([scores[name] for name in names], expected, rtol=1e-9)
        n_some += bool(names)
    assert n_some > 30


def test_a_user_is_not_its_own_neighbour() -> None:
    data = make_dataset([[1, 2, 20], [1, 3, 21], [4, 22], [5, 23]])
    history = data.train[0]
    assert list(neighbour_names(data, [history], 1, ["u0"])) == [("title 20",)]
    assert list(neighbour_names(data, [history], 1, [None])) == [("title 19", "title 20")]
    hidden = history[:2]  # what the history holds of the names' domain makes no difference
    assert list(neighbour_names(data, [hidden], 1, [None])) == [("title 19", "title 20")]


def test_ties_go_by_item_row() -> None:
    data = make_dataset([[1, 22, 20], [1, 21, 23], [4, 13], [1]])
    assert list(neighbour_names(data, [data.train[3]], 1, ["u3"], n_names=3)) == [
        ("title 19", "title 20", "title 21")
    ]
    # of two neighbours that are equally similar, the one that comes first
    assert list(neighbour_names(data, [data.train[3]], 1, ["u3"], n_neighbors=1)) == [
        ("title 19", "title 21")
    ]


def test_every_single_domain_user_gets_names_of_the_other_domain(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, told = tmp_path / "whole.jsonl", []
    result = neighbours(dataset, whole, n_neighbors=6, n_names=4)
    records = read_names(whole)
    assert {r.generator for r in records} == {"neighbours"}
    order = [dataset.train.users.index(r.user) for r in records]
    assert order == sorted(set(order))
    single = [u for u, h in enumerate(dataset.train) if max(h) <= N_A or min(h) > N_A]
    for user, record in zip(order, records, strict=True):
        assert user in single
        assert record.domain == ("kitchen" if max(dataset.train[user]) <= N_A else "food")
    assert result.n_users == len(records) == len(single) - result.n_without > 40
    assert result.n_names == sum(len(r.names) for r in records)
    save_dataset(dataset, tmp_path / "dataset")
    monkeypatch.setattr(stage, "_CHUNK", 7)
    again = tmp_path / "again.jsonl"
    neighbours(
        tmp_path / "dataset", again, n_neighbors=6, n_names=4, progress=lambda *done: told.append(done)
    )
    assert again.read_bytes() == whole.read_bytes()
    assert told[-1] == (len(single), len(single))
    assert len(told) > 5


def test_of_three_domains_a_user_has_names_of_each_that_is_missing(tmp_path: Path) -> None:
    #                  food, kitchen 13..19, garden 20..28: all three; food; kitchen and garden; garden
    data = of_three(make_dataset([[1, 13, 20], [1], [14, 20], [20]]))
    result = neighbours(data, tmp_path / "names.jsonl")
    found = [(r.user, r.domain, set(r.names)) for r in read_names(tmp_path / "names.jsonl")]
    assert found == [
        ("u1", "kitchen", {"title 12"}),
        ("u1", "garden", {"title 19"}),
        ("u2", "food", {"title 0"}),
        ("u3", "food", {"title 0"}),
        ("u3", "kitchen", {"title 12", "title 13"}),
    ]
    assert (result.n_users, result.n_without, result.n_names) == (5, 0, 6)
    one = Catalogue.from_sizes(data.catalogue.ids, data.catalogue.titles, ("all",), (N_A + N_B,))
    with pytest.raises(UsageError, match="the data set has one domain alone"):
        neighbours(replace(data, catalogue=one), tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_nothing_shared_is_no_names(tmp_path: Path) -> None:
    data = make_dataset([[1, 20], [2], [1], [21, 22]])
    result = neighbours(data, tmp_path / "names.jsonl")
    assert (result.n_users, result.n_without, result.n_names) == (1, 2, 1)
    assert [(r.user, r.names) for r in read_names(tmp_path / "names.jsonl")] == [("u2", ("title 19",))]
    alone = make_dataset([[2], [21]])
    assert neighbours(alone, tmp_path / "none.jsonl").n_users == 0
    assert (tmp_path / "none.jsonl").read_text() == ""


def test_arguments_that_cannot_be_meant(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="n_neighbors is 0"):
        neighbours(dataset, tmp_path / "names.jsonl", n_neighbors=0)
    with pytest.raises(UsageError, match="domain is 2"):
        list(neighbour_names(dataset, [], 2, []))
    with pytest.raises(UsageError, match="1 histories of 0 users"):
        list(neighbour_names(dataset, [dataset.train[0]], 1, []))
