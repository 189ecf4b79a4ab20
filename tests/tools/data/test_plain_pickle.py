from __future__ import annotations

import pickle
import pickletools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.plain_pickle import read_plain_pickle

VALUES = st.text(max_size=8) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none()


def read(content: bytes) -> dict[Any, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pkl"
        path.write_bytes(content)
        return read_plain_pickle(path)


@given(st.dictionaries(VALUES, VALUES), st.integers(0, pickle.HIGHEST_PROTOCOL), st.booleans())
def test_what_pickle_wrote_is_read(value: dict[Any, Any], protocol: int, optimized: bool) -> None:
    content = pickle.dumps(value, protocol)
    assert read(pickletools.optimize(content) if optimized else content) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_many_entries_come_in_several_batches(protocol: int) -> None:
    value = {f"item {n}": n % 7 for n in range(2500)}
    assert read(pickle.dumps(value, protocol)) == value


def test_texts_of_python_2_are_read_if_they_are_ascii() -> None:
    assert read(b"(dp0\nS'tea'\np1\nI3\nsS'jam'\np2\ng1\ns.") == {"tea": 3, "jam": "tea"}
    with pytest.raises(DataError, match="not ASCII"):
        read(b"}U\x01\xe9K\x01s.")


@given(st.dictionaries(VALUES, VALUES, min_size=1), st.data())
def test_changed_bytes_are_read_or_refused(value: dict[Any, Any], data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(value, data.draw(st.integers(0, pickle.HIGHEST_PROTOCOL))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(content))
    except DataError:
        return
    assert {type(entry) for pair in found.items() for entry in pair} <= {str, int, bool, type(None)}


def shared_lists() -> list[Any]:
    """Small in the file; its text is 2**60 times as long."""
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    return value


def shared_tuples() -> tuple[Any, ...]:
    """To hash it takes 2**60 steps."""
    value: tuple[Any, ...] = ()
    for _ in range(60):
        value = (value, value)
    return value


DEEP = 200_000
HOSTILE = {
    "shared lists": (pickle.dumps({"tea": shared_lists()}), "holds a list, expected a dict"),
    "shared tuples as key": (
        b"\x80\x04}" + pickle.dumps(shared_tuples())[2:-1] + b"K\x01s.",
        "holds a tuple",
    ),
    "deep lists": (b"}X\x03\x00\x00\x00tea" + b"]" * DEEP + b"a" * (DEEP - 1) + b"s.", "holds a list"),
    "deep tuples as key": (b"})" + b"\x85" * DEEP + b"K\x01s.", "holds a tuple"),
    "a dict within": (pickle.dumps({"tea": {}}), "holds a dict"),
    "itself within": (b"}q\x00K\x01h\x00s.", "an entry is no text or number"),
    "itself as key": (b"}q\x00h\x00K\x01s.", "damaged"),
    "a mark as value": (b"}K\x01(s.", "an entry is no text or number"),
    "half an entry": (b"}(K\x01u.", "damaged"),
    "a memo of 32 GB": (b"}r\xff\xff\xff\x7fK\x01K\x01s", "damaged"),
    "a text of 2**62 bytes": (b"}\x8d" + (1 << 62).to_bytes(8, "little") + b"tea", "damaged"),
    "a number of 100,000 bits": (pickle.dumps({"tea": 1 << 100_000}), "beyond 64 bits"),
    "bytes": (pickle.dumps({"tea": b"Tea"}), "holds a bytes"),
    "a float": (pickle.dumps({"tea": 0.5}), "holds a float"),
    "a set": (pickle.dumps({"tea": {1}}), "holds a set"),
    "a name of a page": (b"c" + b"x" * 5000 + b"\ny\n.", "asks for xxx"),
    "no dict": (pickle.dumps("tea"), "holds no dict"),
    "more than a dict": (b"K\x01}.", "holds no dict"),
    "entries of no dict": (b"K\x01K\x02K\x03s.", "damaged"),
    "nothing": (b"", "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_at_once(name: str) -> None:
    content, message = HOSTILE[name]
    with pytest.raises(DataError, match=message) as caught:
        read(content)
    assert len(str(caught.value)) < 400


def test_a_memo_far_ahead_costs_nothing() -> None:
    assert read(b"}r\xff\xff\xff\x7fK\x01K\x02s.") == {1: 2}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pkl"):
        with pytest.raises(DataError, match="cannot be read: "):
            read_plain_pickle(path)
