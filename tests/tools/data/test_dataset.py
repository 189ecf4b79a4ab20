from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmcdsr_tools
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.dataset import SPLITS, Dataset, Histories
from llmcdsr_tools.data.dataset_folder import FILES, load_dataset, save_dataset, write_histories
from llmcdsr_tools.data.dataset_summary import density, summarize

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    sizes = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    n = sum(sizes)
    ids = draw(st.lists(TEXT, min_size=n, max_size=n, unique=True))
    titles = draw(st.lists(TEXT, min_size=n, max_size=n))
    names = draw(st.lists(TEXT, min_size=2, max_size=2, unique=True))
    splits = {}
    for split in SPLITS:
        least = 0 if split == "train" else 2
        histories = draw(st.lists(st.lists(st.integers(1, n), min_size=least, max_size=5), max_size=5))
        users = draw(st.lists(TEXT, min_size=len(histories), max_size=len(histories)))
        splits[split] = Histories.from_lists(histories, users)
    return Dataset(Catalogue.from_sizes(ids, titles, (names[0], names[1]), sizes), **splits)


def contents(dataset: Dataset) -> Any:
    catalogue = dataset.catalogue
    histories = [
        [(user, h.tolist()) for user, h in zip(part.users, part, strict=True)]
        for part in map(dataset.split, SPLITS)
    ]
    return list(catalogue.ids), list(catalogue.titles), catalogue.domains, histories


@given(datasets())
@settings(max_examples=30)
def test_round_trip(dataset: Dataset) -> None:
    with TemporaryDirectory() as name:
        save_dataset(dataset, Path(name) / "d", source={"from": "é"})
        found = load_dataset(Path(name) / "d")
    assert contents(found) == contents(dataset)
    assert found.train.rows.dtype == np.int32
    assert found.train.offsets.dtype == np.int64


def test_what_is_written_is_what_the_format_lists(tmp_path: Path) -> None:
    save_dataset(small(), tmp_path / "d")
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == sorted(FILES)


def test_whole_keeps_every_interaction_once() -> None:
    data = small()
    nested = replace(
        data,
        train=Histories.from_lists([[1, 2], [4], [3, 3]], ["a", "b", "c"]),
        valid=Histories.from_lists([[1, 2, 3], [5, 4]], ["a", "d"]),
        test=Histories.from_lists([[1, 2, 3, 4], [5, 5], [4, 4]], ["a", "c", "b"]),
    )
    whole = nested.whole()
    found = {(user, *rows.tolist()) for user, rows in zip(whole.train.users, whole.train, strict=True)}
    # c began otherwise: another user of that id
    assert found == {("a", 1, 2, 3, 4), ("b", 4, 4), ("c", 5, 5), ("c", 3, 3), ("d", 5, 4)}
    assert (len(whole.train), len(whole.valid), len(whole.test)) == (5, 0, 0)
    assert (whole.train.rows.dtype, whole.train.offsets.dtype) == (np.int32, np.int64)
    assert whole.catalogue is nested.catalogue
    assert len(replace(data, train=data.valid.from_lists([], [])).whole().whole().valid) == 0


@pytest.mark.parametrize("split", ["time", "leave-one-out", "overlapped"])
def test_whole_is_what_was_split(split: str) -> None:
    rng = np.random.default_rng(3)
    n = 400
    events = pandas.DataFrame(
        {
            "user": rng.integers(0, 40, n).astype(str),
            "item": [f"i{i}" for i in rng.integers(0, 12, n)],
            "timestamp": 1_600_000_000 + rng.permutation(n),
        }
    )
    events["domain"] = events["item"].map(lambda item: "ab"[int(item[1:]) % 2])
    data = Dataset.from_interactions(events, core=0, split=split)
    whole = data.whole().train
    ids = data.catalogue.ids
    found = {u: [ids[row - 1] for row in rows] for u, rows in zip(whole.users, whole, strict=True)}
    expected = {str(u): list(g["item"]) for u, g in events.sort_values("timestamp").groupby("user")}
    assert found == {u: items for u, items in expected.items() if u in found}
    assert sum(map(len, found.values())) > 0.98 * n  # all but users who were too short for training


def small() -> Dataset:
    """Rows 1..3 are of food, 4..5 of tools."""
    catalogue = Catalogue.from_sizes(list("abcde"), ["A", "", "C", "D", "E"], ("food", "tools"), (3, 2))
    train = Histories.from_lists([[1, 2], [4, 5, 4], [1, 4], [], [3]], list("vwxyz"))
    valid = Histories.from_lists([[1, 4, 2]], ["p"])
    test = Histories.from_lists([[5, 1], [2, 3]], ["q", "é"])
    return Dataset(catalogue, train, valid, test)


def test_histories_are_a_sequence() -> None:
    train = small().train
    assert len(train) == 5
    assert train[1].tolist() == [4, 5, 4]
    assert [h.tolist() for h in train] == [[1, 2], [4, 5, 4], [1, 4], [], [3]]
    assert train.lengths.tolist() == [2, 3, 2, 0, 1]


def test_summary_by_hand() -> None:
    data = small()
    found = summarize(data.train, data.catalogue)
    assert (found.users, found.users_of_one, found.users_overlapped) == (5, (2, 1), 1)
    assert (found.interactions, found.interactions_of) == (8, (4, 4))
    assert (found.length_min, found.length_median, found.length_max) == (0, 2.0, 3)
    assert found.length_mean == pytest.approx(1.6)
    assert density(data) == pytest.approx(8 / 25)
    nobody = summarize(Histories.from_lists([], []), data.catalogue)
    assert (nobody.users, nobody.interactions, nobody.length_max) == (0, 0, 0)


@given(datasets(), st.integers(1, 3))
@settings(max_examples=30)
def test_items_of_each_domain_are_counted_in_each_history(dataset: Dataset, n_domains: int) -> None:
    """By the rows of each domain, however many there are."""
    n_items = len(dataset.catalogue)
    cuts = [1, *sorted({1 + n_items * n // n_domains for n in range(1, n_domains)} - {1}), n_items + 1]
    sizes = [stop - start for start, stop in pairwise(cuts)]
    catalogue = Catalogue.from_sizes(
        dataset.catalogue.ids, dataset.catalogue.titles, "abc"[: len(sizes)], sizes
    )
    ranges = [range(start, stop) for start, stop in pairwise(cuts)]
    for part in map(dataset.split, SPLITS):
        counts = [[sum(row in one for row in h.tolist()) for one in ranges] for h in part]
        assert part.counts(catalogue).tolist() == counts
        has = [[n > 0 for n in of_user] for of_user in counts]
        assert part.has_domains(catalogue).tolist() == has
        assert part.overlapped(catalogue).tolist() == [i for i, h in enumerate(has) if sum(h) > 1]
        found = summarize(part, catalogue)
        assert found.users == len(part)
        assert found.users_of_one == tuple(sum(h[d] and sum(h) == 1 for h in has) for d in range(len(sizes)))
        assert found.users_overlapped == sum(sum(h) > 1 for h in has)
        assert found.interactions_of == tuple(sum(n[d] for n in counts) for d in range(len(sizes)))


def test_histories_of_held_out_users_come_without_the_target(tmp_path: Path) -> None:
    data = small()
    write_histories(data, "test", tmp_path / "test.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text("utf-8").splitlines()]
    assert lines == [{"user": "q", "history": ["e"]}, {"user": "é", "history": ["b"]}]
    write_histories(data, "train", tmp_path / "train.jsonl")
    first = json.loads((tmp_path / "train.jsonl").read_text("utf-8").splitlines()[0])
    assert first == {"user": "v", "history": ["a", "b"]}


def test_histories_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    write_histories(small(), "valid", Path("-"))
    assert json.loads(capsys.readouterr().out) == {"user": "p", "history": ["a", "d"]}


def test_overwriting_must_be_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    save_dataset(small(), folder)
    before = (folder / "dataset.json").read_bytes()
    with pytest.raises(DataError, match="exists already"):
        save_dataset(small(), folder)
    assert (folder / "dataset.json").read_bytes() == before
    save_dataset(small(), folder, source={"second": True}, overwrite=True)
    assert json.loads((folder / "dataset.json").read_text())["source"] == {"second": True}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "d"
    save_dataset(small(), folder)
    return folder


def _header(**changes: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def _array(values: Any, dtype: type = np.int64) -> Callable[[Path], None]:
    return lambda path: np.save(path, np.array(values, dtype=dtype))


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: Path(path).write_text(text)


def _archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, rows=np.ones(3, dtype=np.int32))


def _shape(before: str, after: str) -> Callable[[Path], None]:
    """Put other text into the header of a .npy file, which states its own length."""

    def damage(path: Path) -> None:
        content = path.read_bytes()
        header, data = content[10:128], content[128:]
        text = header.decode().rstrip().replace(before, after).ljust(117) + "\n"
        path.write_bytes(content[:8] + len(text).to_bytes(2, "little") + text.encode() + data)

    return damage


def _one_byte_more(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _one_byte_less(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _histories(histories: list[list[int]]) -> Callable[[Path], None]:
    """Replace all three files of a split."""

    def damage(path: Path) -> None:
        split = path.name.split("_")[0]
        packed = Histories.from_lists(histories, [str(n) for n in range(len(histories))])
        np.save(path, packed.offsets)
        np.save(path.with_name(f"{split}_rows.npy"), packed.rows)
        path.with_name(f"{split}_users.json").write_text(json.dumps(packed.users))

    return damage


DOMAINS = [{"name": "food", "items": 3}, {"name": "tools", "items": 2}]
DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    *((name, Path.unlink, "cannot be read") for name in ("dataset.json", "item_ids.json", "test_users.json")),
    *(
        (name, Path.unlink, "cannot be read as a NumPy array")
        for name in ("train_rows.npy", "valid_offsets.npy")
    ),
    ("dataset.json", _text("{"), "not valid JSON"),
    ("dataset.json", _text("[]"), "not a llmcdsr-dataset file"),
    ("dataset.json", _header(format="other"), "not a llmcdsr-dataset file"),
    ("dataset.json", _header(format_version=2), "format_version is 2, this version reads up to 1"),
    ("dataset.json", _header(format_version="1"), "format_version is '1'"),
    ("dataset.json", _header(format_version=0), "format_version is 0"),
    ("dataset.json", _header(format_version=True), "format_version is True"),
    ("dataset.json", _text("[" * 100_000), "not valid JSON"),
    ("test_users.json", _text("[" * 100_000), "not valid JSON"),
    ("item_titles.json", _text('["A", "B", "C", "D", "\\ud800"]'), "not valid Unicode"),
    ("dataset.json", _header(domains=[]), "field 'domains' must list domains"),
    ("dataset.json", _header(domains=3), "field 'domains' must list domains"),
    ("dataset.json", _header(domains=[{"name": "food"}, DOMAINS[1]]), "field 'domains'"),
    ("dataset.json", _header(domains=[{"name": "food", "items": "3"}, DOMAINS[1]]), "field 'domains'"),
    ("dataset.json", _header(domains=[{"name": 1, "items": 3}, DOMAINS[1]]), "field 'domains'"),
    ("dataset.json", _header(domains=[{"name": "food", "items": 4}, DOMAINS[1]]), "expected 1..5"),
    (
        "dataset.json",
        _header(domains=[{"name": "food", "items": 5}, {"name": "b", "items": 0}]),
        "has no item, expected one at least",
    ),
    ("dataset.json", _header(domains=[{"name": "tools", "items": 3}, DOMAINS[1]]), "two domains are named"),
    ("item_ids.json", _text("{}"), "must be a JSON array of strings"),
    ("item_ids.json", _text('["a", 1]'), "must be a JSON array of strings"),
    ("item_ids.json", _text('["a", "b", "c", "d", "a"]'), "item id 'a' occurs more than once"),
    ("item_titles.json", _text('["A"]'), "5 item ids but 1 titles"),
    ("train_users.json", _text('["v"]'), r"train_offsets\.npy: 6 offsets, expected 2"),
    ("train_rows.npy", _array([1, 2, 4, 5, 4, 1, 4, 3]), "expected one int32 axis"),
    ("train_rows.npy", _array([[1, 2]], np.int32), "expected one int32 axis"),
    ("train_rows.npy", _array([0, 2, 4, 5, 4, 1, 4, 3], np.int32), r"rows from 0 to 5, expected 1\.\.5"),
    ("train_rows.npy", _array([1, 2, 4, 6, 4, 1, 4, 3], np.int32), r"rows from 1 to 6, expected 1\.\.5"),
    ("train_rows.npy", _text("hello"), "cannot be read as a NumPy array"),
    ("train_rows.npy", _text(""), "cannot be read as a NumPy array"),
    ("train_rows.npy", _archive, "cannot be read as a NumPy array"),
    ("train_offsets.npy", _array([0, 2, 5, 7, 8]), r"5 offsets, expected 6 \(users \+ 1\)"),
    ("train_offsets.npy", _array([0, 2, 5, 7, 7, 9]), "must rise from 0 to 8"),
    ("train_offsets.npy", _array([1, 2, 5, 7, 7, 8]), "must rise from 0 to 8"),
    ("train_offsets.npy", _array([0, 5, 2, 7, 7, 8]), "must rise from 0 to 8"),
    ("train_offsets.npy", _array([]), "0 offsets, expected 6"),
    ("train_offsets.npy", _array([0, 2, 5, 7, 7, 8], np.int32), "expected one int64 axis"),
    # differences of these wrap round to positive numbers
    ("train_offsets.npy", _array([0, 2**63 - 1, -(2**63) + 5, 7, 7, 8]), "must rise from 0 to 8"),
    ("train_rows.npy", _shape("(8,)", "(10**18,)"), "cannot be read as a NumPy array"),
    (
        "train_rows.npy",
        _shape("(8,)", "(1" + "0" * 12 + ",)"),
        "32 bytes of data, expected 4,000,000,0",
    ),
    ("train_rows.npy", _shape("(8,)", "(-8,)"), "32 bytes of data, expected -32"),
    ("train_rows.npy", _shape("(8,)", "(" * 5000), "cannot be read as a NumPy array"),
    ("train_rows.npy", _shape("<i4", "|O8"), "expected one int32 axis"),
    ("train_rows.npy", _one_byte_more, "33 bytes of data, expected 32"),
    ("train_rows.npy", _one_byte_less, "31 bytes of data, expected 32"),
    ("valid_offsets.npy", _histories([[1, 4], [2]]), "history 1 has 1 item, expected a history and its"),
    ("test_offsets.npy", _histories([[1, 4], [2, 3], []]), "history 2 has 0 items, expected a history and"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE)
def test_every_refusal_names_its_file(
    saved: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "d"
    shutil.copytree(saved, folder)
    damage(folder / name)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(folder)
    assert str(caught.value).startswith(str(folder))
    if name != "train_users.json":  # any of the two files that do not fit
        assert name in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read"):
        load_dataset(tmp_path)


def test_a_data_set_is_shown_on_a_line() -> None:
    data = small()
    assert repr(data.train) == "<Histories: 5 users, 8 interactions>"
    assert repr(data).startswith("<Dataset: <Catalogue of ")
    counts = ", ".join(f"{len(data.split(split))} {split}" for split in SPLITS)
    assert repr(data).endswith(f", users: {counts}>")


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    save_dataset(small(), str(tmp_path / "small"))
    assert llmcdsr_tools.load_dataset(str(tmp_path / "small")).catalogue == small().catalogue
    assert llmcdsr_tools.Dataset is Dataset
    with pytest.raises(AttributeError, match="no attribute 'Datset'"):
        _ = llmcdsr_tools.Datset  # type: ignore[attr-defined]
