"""Names for items: one question a title's words, from the fake server to what a bundle says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_llm_server import MODEL, FakeServer, serving
from snack_world import N_A, N_B, make_dataset

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.cold_histories import cold_histories, question_of_items
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.generate.generate_settings import GenerateSettings, PromptSettings, ServerSettings
from llmcdsr_tools.generate.generation import generate
from llmcdsr_tools.generate.plan import plan_generation
from llmcdsr_tools.item_names import embed_item_names, load_item_names
from llmcdsr_tools.names import GeneratedNames, read_names, write_names

pytest.importorskip("openai")


@pytest.fixture
def dataset() -> Dataset:
    """Six snacks of two kinds of titles, and pans of ten."""
    data = make_dataset()
    kinds = ["Salted almonds", "Dark chocolate"]
    titles = [f"{kinds[n % 2]}, {n} g" for n in range(N_A)]
    titles += [f"Pan of kind {'abcdefghij'[n % 10] * 3} {n} cm" for n in range(N_B)]
    titles[4] = ""
    return replace(data, catalogue=replace(data.catalogue, titles=titles))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


def settings(server: FakeServer) -> dict[str, Any]:
    return {
        "server": ServerSettings(server.url, MODEL, retries=1, backoff=0.001),
        "settings": GenerateSettings(PromptSettings(n_names=5)),
    }


def test_items_share_a_question_by_the_words_of_their_titles(dataset: Dataset) -> None:
    shared = question_of_items(dataset)
    titles = dataset.catalogue.titles
    assert shared[0] == 0
    assert shared[5] == 5  # nothing to ask
    for row, first in enumerate(shared.tolist()):
        if row not in (0, 5):
            assert first <= row
            assert titles[first - 1].split(",")[0].split(" cm")[0].rstrip("0123456789 ") == (
                titles[row - 1].split(",")[0].split(" cm")[0].rstrip("0123456789 ")
            )
    histories = cold_histories(dataset, "items")
    assert len(histories) == 2 + 10 + 1
    assert [h.rows.tolist() for h in histories] == [[row] for row in np.unique(shared[1:]).tolist()]
    assert [h.domain for h in histories] == [int(h.rows[0] <= N_A) for h in histories]


def test_from_questions_to_vectors(server: FakeServer, dataset: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "names.jsonl"
    plan = plan_generation(dataset, **settings(server), split="items", price_in=1.0, price_out=2.0)
    assert (plan.n_requests, plan.n_without_title) == (12, 1)
    assert not server.requests
    result = generate(dataset, output, **settings(server), split="items")
    assert (result.n_wanted, len(server.requests), result.failures) == (12, 12, ())
    again = generate(dataset, output, **settings(server), split="items")
    assert (again.n_resumed, len(server.requests)) == (12, 12)  # answered once
    records = read_names(output)
    assert {r.user for r in records} <= set(dataset.catalogue.ids)
    assert [r.domain for r in records] == ["kitchen"] * 2 + ["food"] * 10

    known = sorted({name for record in records for name in record.names})[:5]
    titled = replace(dataset, catalogue=replace(dataset.catalogue, titles=_with(dataset, known)))
    matrix = np.random.default_rng(0).normal(size=(N_A + N_B, 4)).astype(np.float32)
    np.save(tmp_path / "titles.npy", matrix)
    row_of = {title: row for row, title in reversed(list(enumerate(titled.catalogue.titles)))}
    # names of known titles alone, each for an item whose question is its own
    entries = [
        GeneratedNames("i0", "kitchen", tuple(known[:3]), "m"),
        GeneratedNames("i20", "food", tuple(known[3:]), "m"),
    ]
    write_names(output, entries)
    n_items, n_names = embed_item_names(output, titled, tmp_path / "v.npz", titles=tmp_path / "titles.npy")
    vectors = load_item_names(tmp_path / "v.npz", titled)
    shared = question_of_items(titled)
    expected = np.zeros((N_A + N_B + 1, 4))
    for record in entries:
        row = titled.catalogue.row(record.user)
        expected[shared == shared[row]] = matrix[[row_of[name] for name in record.names]].mean(axis=0)
    assert vectors.shape == (1, N_A + N_B + 1, 4)
    np.testing.assert_allclose(vectors[0, 1:], expected[1:], rtol=1e-5)
    assert n_items == np.count_nonzero(expected[1:].any(axis=1))
    assert n_names == 5


def of_three(dataset: Dataset) -> Dataset:
    """The same items, the second domain parted in two: kitchen has rows 21..30, garden 31..50."""
    names, sizes = ("food", "kitchen", "garden"), (N_A, 10, N_B - 10)
    catalogue = dataset.catalogue
    return replace(dataset, catalogue=Catalogue.from_sizes(catalogue.ids, catalogue.titles, names, sizes))


def test_of_three_domains_each_item_may_say_something_of_each_other_one(
    dataset: Dataset, tmp_path: Path
) -> None:
    data = of_three(dataset)
    titles, shared = data.catalogue.titles, question_of_items(data)
    assert shared[31] == 31  # the same words as those of row 21, of another domain
    matrix = np.random.default_rng(0).normal(size=(N_A + N_B, 4)).astype(np.float32)
    np.save(tmp_path / "titles.npy", matrix)
    # item, domain of the names, row of the title that is the name, place among the other domains
    said = [
        ("i0", "kitchen", 21, 0),
        ("i0", "garden", 35, 1),
        ("i20", "food", 1, 0),
        ("i20", "garden", 36, 1),
        ("i30", "kitchen", 22, 1),
    ]
    names = tmp_path / "names.jsonl"
    write_names(names, [GeneratedNames(i, domain, (titles[row - 1],), "m") for i, domain, row, _ in said])
    n_items, n_names = embed_item_names(names, data, tmp_path / "v.npz", titles=tmp_path / "titles.npy")
    expected = np.zeros((2, N_A + N_B + 1, 4))
    for item, _, row, place in said:
        expected[place, shared == shared[1 + int(item[1:])]] = matrix[row - 1]
    np.testing.assert_allclose(load_item_names(tmp_path / "v.npz", data), expected, rtol=1e-5)
    assert n_items == np.count_nonzero(expected.any(axis=(0, 2)))
    assert n_names == 5
    for domain in ("kitchen", "shed"):
        write_names(names, [GeneratedNames("i20", domain, ("x",), "m")])
        with pytest.raises(DataError, match=f"item 'i20': names of '{domain}', expected 'food' or 'garden'"):
            embed_item_names(names, data, tmp_path / "w.npz", titles=tmp_path / "titles.npy")
    with pytest.raises(DataError, match="made for other items than those of the data set"):
        load_item_names(tmp_path / "v.npz", dataset)


def _with(dataset: Dataset, known: list[str]) -> list[str]:
    """The titles, the last ones replaced by these."""
    titles = list(dataset.catalogue.titles)
    return [*titles[: len(titles) - len(known)], *known]


def test_names_of_items_that_cannot_be_used(dataset: Dataset, tmp_path: Path) -> None:
    np.save(tmp_path / "titles.npy", np.ones((N_A + N_B, 4), np.float32))
    names, out = tmp_path / "names.jsonl", tmp_path / "v.npz"
    for record, message in (
        (GeneratedNames("who", "food", ("x",), "m"), "'who' is no item of the data set"),
        (GeneratedNames("i0", "food", ("x",), "m"), "item 'i0': names of 'food', expected 'kitchen'"),
    ):
        write_names(names, [record])
        with pytest.raises(DataError, match=message):
            embed_item_names(names, dataset, out, titles=tmp_path / "titles.npy")
    write_names(names, [GeneratedNames("i0", "kitchen", (dataset.catalogue.titles[30],), "m")])
    embed_item_names(names, dataset, out, titles=tmp_path / "titles.npy")
    with pytest.raises(DataError, match="exists already"):
        embed_item_names(names, dataset, out, titles=tmp_path / "titles.npy")
    ids = [f"x{n}" for n in range(N_A + N_B)]
    other = replace(dataset, catalogue=replace(dataset.catalogue, ids=ids))
    with pytest.raises(DataError, match="made for other items"):
        load_item_names(out, other)
    out.write_bytes(b"PK")
    with pytest.raises(DataError, match="not a file of names of items"):
        load_item_names(out, dataset)
