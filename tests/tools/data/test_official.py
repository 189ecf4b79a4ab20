from __future__ import annotations

import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.official import read_official

FILES = {
    "num.txt": "2\n3\n",
    "train_A.txt": "1\t0,1\n2\t1,0,1\n",
    "train_B.txt": "1\t2,4\n",
    "train_overlap.txt": "1\t0,2\n7 b\t4,1,3\n",
    "valid.txt": "1\t0,3\n",
    "test.txt": "1\t3,1,2",
}
PICKLES: dict[str, Any] = {
    "item_set_A.pkl": {"tea": 1, "jam": 0},
    "item_set_B.pkl": {"pan": 0, "pot": 2, "cup": 1},
    "text_A.pkl": {"jam": "Jam", "tea": "Tea", "nut": "not an item"},
    "text_B.pkl": {"pan": "", "pot": "Töpfchen"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text.encode())
    for name, value in PICKLES.items():
        (tmp_path / name).write_bytes(pickle.dumps(value))
    return tmp_path


def test_rows_are_the_numbers_of_the_files_plus_one(folder: Path) -> None:
    dataset, stray_titles = read_official(folder)
    assert stray_titles == 1  # of the nut
    assert list(dataset.catalogue.ids) == ["jam", "tea", "pan", "cup", "pot"]
    assert list(dataset.catalogue.titles) == ["Jam", "Tea", "", "", "Töpfchen"]
    assert [(d.name, d.start, d.stop) for d in dataset.catalogue.domains] == [("A", 1, 3), ("B", 3, 6)]
    assert [h.tolist() for h in dataset.train] == [[1, 2], [2, 1, 2], [3, 5], [1, 3], [5, 2, 4]]
    assert list(dataset.train.users) == [
        "train_A/1",
        "train_A/2",
        "train_B/1",
        "train_overlap/1",
        "train_overlap/7 b",
    ]
    assert [h.tolist() for h in dataset.valid] == [[1, 4]]
    assert [h.tolist() for h in dataset.test] == [[4, 2, 3]]
    assert list(dataset.test.users) == ["test/1"]


def test_blanks_after_a_number_are_no_error(folder: Path) -> None:
    (folder / "num.txt").write_bytes(b"2 \n3\t ")
    assert [d.n_items for d in read_official(folder)[0].catalogue.domains] == [2, 3]


def test_domains_can_be_named(folder: Path) -> None:
    dataset, _ = read_official(folder, ("Food", "Kitchen"))
    assert [d.name for d in dataset.catalogue.domains] == ["Food", "Kitchen"]


@pytest.mark.parametrize(
    ("name", "content", "where", "message"),
    [
        ("train_A.txt", b"", "", "the file is empty"),
        ("train_A.txt", b"1\t0,1\n\n", ":2", "1 fields, expected 2"),
        ("train_A.txt", b"1\t0,1\n2 0,1\n", ":2", "1 fields, expected 2"),
        ("train_A.txt", b"1\t0,1\n2\t0\t1\n", ":2", "3 fields, expected 2"),
        ("train_A.txt", b"1\t0,1\r\n", ":1", "ends in CRLF, expected LF"),
        ("train_A.txt", b"1\t0,1\n2\t0,x\n", ":2", "item 'x', expected numbers"),
        ("train_A.txt", b"1\t0,1\n2\t0,,1\n", ":2", "item '', expected numbers"),
        ("train_A.txt", b"1\t0,1\n2\t0,-1\n", ":2", "item '-1', expected numbers"),
        ("train_A.txt", b"1\t0,1\n2\t0,1_0\n", ":2", "item '1_0', expected numbers"),
        ("train_A.txt", b"1\t0,1\n2\t0, 1\n", ":2", "item ' 1', expected numbers"),
        ("train_A.txt", "1\t0,1\n2\t0,\u0661\n".encode(), ":2", "expected numbers"),
        ("train_A.txt", b"1\t0,1\n2\t0," + b"9" * 5000, ":2", "expected numbers"),
        ("train_A.txt", b"1\t0,1\n2\t\n", ":2", "item '', expected numbers"),
        ("train_A.txt", b"1\t0,1\n\t1\n", ":2", "the user id is empty"),
        ("train_A.txt", b"1\t0,1\n2\t0\n1\t1\n", ":3", "user '1' again; it was first on line 1"),
        ("train_A.txt", b"1\t0,1\n\xff\t1\n", ":2", "not UTF-8"),
        ("train_A.txt", b"1\t0,1\n2\t0,2\n", ":2", "item 2 does not belong here, expected items of A, 0..1"),
        ("train_B.txt", b"1\t2,4\n2\t3,1\n", ":2", "item 1 does not belong here, expected items of B, 2..4"),
        ("train_B.txt", b"1\t2,5\n", ":1", "item 5 does not belong here"),
        ("train_overlap.txt", b"1\t0,2\n2\t0,1\n", ":2", "items of one domain only"),
        ("train_overlap.txt", b"1\t0,2\n2\t2,3\n", ":2", "items of one domain only"),
        ("valid.txt", b"1\t0,5\n", ":1", "item 5 does not belong here, expected items 0..4"),
        ("valid.txt", b"1\t0,2\n2\t3\n", ":2", "1 item, expected a history and its target"),
        ("test.txt", b"1\t3\n", ":1", "1 item, expected a history and its target"),
        ("num.txt", b"", "", "0 lines, expected 2"),
        ("num.txt", b"2\n", "", "1 lines, expected 2"),
        ("num.txt", b"2\n3\n4\n", "", "3 lines, expected 2"),
        ("num.txt", b"2\nthree\n", ":2", "'three', expected a number"),
        ("num.txt", b"0\n5\n", ":1", "'0', expected a number"),
        ("num.txt", b"2\r\n3\r\n", ":1", "expected a number"),
        ("num.txt", b"\xef\xbb\xbf2\n3\n", ":1", "expected a number"),
        ("train_A.txt", b"\xef\xbb\xbf1\t0,1\n", ":1", "starts with a byte order mark"),
    ],
)
def test_bad_text_files_are_refused_with_their_line(
    folder: Path, name: str, content: bytes, where: str, message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_official(folder)
    assert str(caught.value).startswith(f"{folder / name}{where}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("item_set_A.pkl", {"tea": 1}, "1 items, expected 2 as num.txt has it"),
        ("item_set_A.pkl", {"tea": 1, "jam": 1}, "items 'tea' and 'jam' both have position 1"),
        ("item_set_A.pkl", {"tea": 1, "jam": 2}, "item 'jam' has position 2, expected 0..1"),
        ("item_set_A.pkl", {"tea": 1, "jam": -1}, "item 'jam' has position -1, expected 0..1"),
        ("item_set_A.pkl", {"tea": 1, "jam": False}, "item 'jam' has position False"),
        ("item_set_A.pkl", {"tea": 1, "jam": "0"}, "item 'jam' has position '0'"),
        ("item_set_A.pkl", {"tea": 1, 5: 0}, "item id is 5, expected text"),
        ("item_set_A.pkl", {"tea": 1, "": 0}, "item id is '', expected text"),
        ("item_set_A.pkl", {"tea": 1, "\ud800": 0}, "item id is '\\ud800', expected text"),
        ("item_set_A.pkl", ["tea", "jam"], "holds a list, expected a dict"),
        ("item_set_B.pkl", {"pan": 0, "tea": 1, "cup": 2}, "item 'tea' is in item_set_A.pkl too"),
        ("text_A.pkl", {"tea": None}, "title of item 'tea' is None, expected text"),
        ("text_A.pkl", {"tea": 0}, "title of item 'tea' is 0, expected text"),
        ("text_A.pkl", {"tea": b"Tea"}, "holds a bytes, expected a dict of texts"),
        ("text_A.pkl", {"TEA": "Tea", "9": "x"}, "none of its 2 item ids is in item_set_A.pkl; found 'TEA'"),
        ("text_A.pkl", {"tea": "\udfff"}, "title of item 'tea' is"),
        ("text_A.pkl", {3: "Tea"}, "item id is 3, expected text"),
    ],
)
def test_bad_dicts_are_refused(folder: Path, name: str, value: object, message: str) -> None:
    (folder / name).write_bytes(pickle.dumps(value))
    with pytest.raises(DataError) as caught:
        read_official(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert message in str(caught.value)


def test_a_size_that_no_memory_holds_is_refused_by_the_item_sets(folder: Path) -> None:
    (folder / "num.txt").write_bytes(b"999999999\n3\n")
    with pytest.raises(DataError, match=r"item_set_A\.pkl: 2 items, expected 999,999,999 as num.txt has it"):
        read_official(folder)


def test_no_titles_at_all_are_fine(folder: Path) -> None:
    (folder / "text_A.pkl").write_bytes(pickle.dumps({}))
    dataset, stray_titles = read_official(folder)
    assert list(dataset.catalogue.titles)[:2] == ["", ""]
    assert stray_titles == 0


class RunsSomething:
    """Makes a folder when its pickle is read by an unpickler that lets it."""

    def __init__(self, what: Callable[..., Any], *arguments: Any) -> None:
        self.what = what
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_runs_something_is_refused_and_does_not_run(
    folder: Path, name: str, protocol: int
) -> None:
    target = folder / "made"
    hostile = pickle.dumps({"tea": RunsSomething(os.mkdir, str(target))}, protocol=protocol)
    pickle.loads(hostile)
    assert target.is_dir(), "the test's pickle must do harm when it is let"
    target.rmdir()
    (folder / name).write_bytes(hostile)
    with pytest.raises(DataError) as caught:
        read_official(folder)
    assert str(folder / name) in str(caught.value)
    assert f"{os.mkdir.__module__}.mkdir" in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("harmless", [set, bytearray, object, Path])
def test_any_global_is_refused_however_harmless(folder: Path, harmless: Callable[..., Any]) -> None:
    (folder / "text_A.pkl").write_bytes(pickle.dumps({"tea": RunsSomething(harmless)}))
    with pytest.raises(DataError, match=f"asks for {harmless.__module__}\\.{harmless.__name__}"):
        read_official(folder)


def test_a_persistent_id_is_refused(folder: Path) -> None:
    (folder / "text_A.pkl").write_bytes(b"(dP123\n.")
    with pytest.raises(DataError, match="asks for an object outside of it"):
        read_official(folder)


def test_damaged_pickles_are_refused(folder: Path) -> None:
    good = pickle.dumps(PICKLES["item_set_B.pkl"])
    ends = [position for _, _, position in pickletools.genops(good)]
    for end in ends:
        (folder / "item_set_B.pkl").write_bytes(good[:end])
        with pytest.raises(DataError, match=r"item_set_B\.pkl: damaged"):
            read_official(folder)
    for content in (b"}]K\x01s.", b"tea", b"\xff\xfe"):
        (folder / "item_set_B.pkl").write_bytes(content)
        with pytest.raises(DataError, match=r"item_set_B\.pkl: "):
            read_official(folder)


def test_missing_files_are_all_named(folder: Path) -> None:
    (folder / "num.txt").unlink()
    (folder / "text_B.pkl").unlink()
    with pytest.raises(DataError, match=r"it has no num\.txt, text_B\.pkl"):
        read_official(folder)


def test_food_kitchen_is_read_line_by_line(food_kitchen: Path) -> None:
    dataset, _ = read_official(food_kitchen)
    n_a, n_b = map(int, (food_kitchen / "num.txt").read_text().split())
    assert [d.n_items for d in dataset.catalogue.domains] == [n_a, n_b]
    assert all(dataset.catalogue.titles)
    for split, names in (
        (dataset.train, ["train_A", "train_B", "train_overlap"]),
        (dataset.valid, ["valid"]),
        (dataset.test, ["test"]),
    ):
        expected = [
            (f"{name}/{user}", [int(item) + 1 for item in items.split(",")])
            for name in names
            for user, items in (
                line.split("\t") for line in (food_kitchen / f"{name}.txt").read_text().splitlines()
            )
        ]
        assert [(u, h.tolist()) for u, h in zip(split.users, split, strict=True)] == expected
