"""Names files: what is written is read back, and what is not as it must be is refused by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.names import GeneratedNames, read_names, write_names

GOOD = {"user": "u1", "domain": "kitchen", "names": ["Moka pot", "Sieve"], "generator": "neighbours"}
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
records = st.lists(
    st.builds(
        GeneratedNames,
        text,
        text,
        st.lists(text.filter(str.strip), min_size=1, max_size=4).map(tuple),
        text,
    ),
    max_size=5,
    unique_by=lambda record: (record.user, record.domain),
)


@given(records)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[GeneratedNames]
) -> None:
    path = tmp_path_factory.mktemp("names") / "names.jsonl"
    write_names(path, iter(names))
    assert read_names(path) == names
    assert len(path.read_bytes().split(b"\n")) == len(names) + 1


def test_the_file_is_plain_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "names.jsonl"
    write_names(path, [GeneratedNames("u1", "küche", ("Moka pot", "Töpfe"), "neighbours")])
    expected = (
        '{"user": "u1", "domain": "küche", "names": ["Moka pot", "Töpfe"], "generator": "neighbours"}\n'
    )
    assert path.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "expected a JSON object, found list"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        ({**GOOD, "user": 3}, "field 'user' must be a string, not empty, found 3"),
        ({**GOOD, "domain": ""}, "field 'domain' must be a string, not empty, found ''"),
        ({k: v for k, v in GOOD.items() if k != "generator"}, "field 'generator' must be .*, found None"),
        ({**GOOD, "names": "Moka pot"}, "field 'names' must be a list of one or more"),
        ({**GOOD, "names": []}, r"field 'names' must be .* none blank, found \[\]"),
        ({**GOOD, "names": ["a", " "]}, "field 'names' must be"),
        ({**GOOD, "names": ["a", None]}, "field 'names' must be"),
        ({**GOOD, "names": ["half a \ud83d"]}, "not valid Unicode"),
        ({**GOOD, "names": ["other"]}, "user 'u1' has names of 'kitchen' on line 2 already"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: bytes | dict[str, object], message: str) -> None:
    path = tmp_path / "names.jsonl"
    bad = line if isinstance(line, bytes) else json.dumps(line).encode()
    path.write_bytes(b"\n" + json.dumps(GOOD).encode() + b"\n" + bad + b"\n")
    with pytest.raises(DataError, match=rf"names\.jsonl:3: {message}"):
        read_names(path)


def test_a_record_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "names.jsonl"
    path.write_text("before")
    with pytest.raises(DataError, match="user 'u1': field 'names'"):
        write_names(path, [GeneratedNames("u1", "kitchen", (), "neighbours")])
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["names.jsonl"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read: No such file"):
        read_names(tmp_path / "none.jsonl")
