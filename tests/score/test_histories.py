from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.score import histories
from llmcdsr_lite.score.histories import MAX_LINE, BadRecord, HistoryRecord, file_format, read_histories

THREE = [
    HistoryRecord(1, "u1", ["a", "b"]),
    HistoryRecord(2, "2", [], "food"),
    HistoryRecord(3, "ü 3", ["é", "a"]),
]
THREE_JSON = '{"user": "u1", "history": ["a", "b"]}\n{"user": 2, "history": [], "domain": "food"}\n' + (
    '{"history": ["é", "a"], "user": "ü 3", "domain": null, "other": [1]}\n'
)
THREE_CSV = "user,history,domain\nu1,a b,\n2,,food\nü 3, é  a ,\n"


def read(path: Path, content: bytes, **options: Any) -> list[HistoryRecord | BadRecord]:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return list(read_histories(path, **options))


def moved(records: list[HistoryRecord], by: int) -> list[HistoryRecord]:
    return [HistoryRecord(r.line + by, r.user, r.history, r.domain) for r in records]


@pytest.mark.parametrize("name", ["h.jsonl", "h.jsonl.gz", "h.txt", "h", "h.json"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("final", [True, False])
def test_jsonl(tmp_path: Path, name: str, start: bytes, line_end: bytes, final: bool) -> None:
    content = start + THREE_JSON.encode().replace(b"\n", line_end)
    assert read(tmp_path / name, content if final else content.rstrip()) == THREE


@pytest.mark.parametrize("name", ["h.csv", "h.csv.gz", "h.2024.csv"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("final", [True, False])
def test_csv(tmp_path: Path, name: str, start: bytes, line_end: bytes, final: bool) -> None:
    content = start + THREE_CSV.encode().replace(b"\n", line_end)
    assert read(tmp_path / name, content if final else content[: -len(line_end)]) == moved(THREE, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "csv"),
        ("a.csv.gz", "csv"),
        ("a.jsonl", "jsonl"),
        ("a.jsonl.gz", "jsonl"),
        ("a.gz", "jsonl"),
        ("a", "jsonl"),
        ("-", "jsonl"),
        ("a.csv.jsonl", "jsonl"),
    ],
)
def test_the_format_is_told_by_the_name(name: str, expected: str) -> None:
    assert file_format(Path(name)) == expected


def test_a_named_format_goes_before_the_name(tmp_path: Path) -> None:
    assert read(tmp_path / "h.csv", THREE_JSON.encode(), format="jsonl") == THREE
    assert read(tmp_path / "h.jsonl", THREE_CSV.encode(), format="csv") == moved(THREE, 1)


@pytest.mark.parametrize(("format", "content"), [("jsonl", THREE_JSON), ("csv", THREE_CSV)])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, format: Any, content: str) -> None:
    stdin = io.BufferedReader(io.BytesIO(content.encode()))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=stdin))
    assert list(read_histories(Path("-"), format)) == moved(THREE, 1 if format == "csv" else 0)
    assert not stdin.closed


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    lines = THREE_JSON.splitlines()
    content = "\n".join(["", lines[0], "  ", "\t", lines[1], "", lines[2], "", ""])
    assert [r.line for r in read(tmp_path / "h.jsonl", content.encode())] == [2, 5, 7]
    lines = THREE_CSV.splitlines()
    content = "\n".join([lines[0], "", lines[1], "", "", lines[2], lines[3], ""])
    assert [r.line for r in read(tmp_path / "h.csv", content.encode())] == [3, 6, 7]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_empty_jsonl(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path / "h.jsonl", content) == []


def test_columns_in_any_order_and_other_separators(tmp_path: Path) -> None:
    content = b"when,history,user\n2020,a b|c,u1\n"
    assert read(tmp_path / "h.csv", content, separator="|") == [HistoryRecord(2, "u1", ["a b", "c"])]


def test_quoted_csv_fields_with_line_ends(tmp_path: Path) -> None:
    content = b'user,history\n"u\n1","a\nb c"\n"say ""hi"", you",d\nu3\nu4,e\n'
    assert read(tmp_path / "h.csv", content) == [
        HistoryRecord(2, "u\n1", ["a\nb", "c"]),
        HistoryRecord(5, 'say "hi", you', ["d"]),
        BadRecord(6, "1 fields, expected 2"),
        HistoryRecord(7, "u4", ["e"]),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "not valid JSON: "),
        (b'{"user": "u", "history": ["a"]', "not valid JSON: "),
        (b"[" * 100_000, "not valid JSON: "),
        (b'{"user": ' + b"1" * 5000 + b', "history": []}', "not valid JSON: "),
        (b'{"user": "u", "history": ["a"]} {}', "not valid JSON: "),
        (b"[1]", "expected a JSON object, found list"),
        (b'"x"', "expected a JSON object, found str"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"history": ["a"]}', "field 'user' must be a string or a number, found None"),
        (b'{"user": true, "history": []}', "field 'user' must be a string or a number, found True"),
        (b'{"user": 1.5, "history": []}', "field 'user' must be a string or a number, found 1.5"),
        (b'{"user": "u"}', "field 'history' must be a list of item ids, found None"),
        (b'{"user": "u", "history": "a b"}', "field 'history' must be a list of item ids, found 'a b'"),
        (b'{"user": "u", "history": [1.5]}', "field 'history' must be a list of item ids, found [1.5]"),
        (b'{"user": "u", "history": [true]}', "field 'history' must be a list of item ids, found [True]"),
        (b'{"user": "u", "history": [], "domain": 3}', "field 'domain' must be a string, found 3"),
        (b'{"user": "\xff", "history": []}', "not valid UTF-8"),
        (b'{"user": "u", "history": ["\xe9"]}', "not valid UTF-8"),
        (b'{"user": "u", "history": ["\\ud800"]}', "not valid UTF-8"),
        (b'{"user": "u", "history": [], "domain": "\xff"}', "not valid UTF-8"),
        (b"\xff\xfe", "not valid JSON: "),
    ],
)
def test_bad_jsonl_lines(tmp_path: Path, line: bytes, reason: str) -> None:
    lines = THREE_JSON.encode().splitlines(keepends=True)
    records = read(tmp_path / "h.jsonl", lines[0] + b"\n" + line + b"\n" + lines[1] + line)
    assert [type(r) for r in records] == [HistoryRecord, BadRecord, HistoryRecord, BadRecord]
    assert [r.line for r in records] == [1, 3, 4, 5]
    for bad in (records[1], records[3]):
        assert isinstance(bad, BadRecord)
        assert bad.reason.startswith(reason)
        assert len(bad.reason) < 200


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"u", "1 fields, expected 2"),
        (b"u,a,b", "3 fields, expected 2"),
        (b'u,"a"b', "not CSV: "),
        (b"u," + b"a" * MAX_LINE, "not CSV: longer than 16,777,216 characters"),
        (b"u\xff,a", "not valid UTF-8"),
        (b"u,\xe9", "not valid UTF-8"),
    ],
)
def test_bad_csv_lines(tmp_path: Path, line: bytes, reason: str) -> None:
    records = read(tmp_path / "h.csv", b"user,history\nu1,a\n" + line + b"\nu2,b\n")
    assert records[0] == HistoryRecord(2, "u1", ["a"])
    assert records[2:] == [HistoryRecord(4, "u2", ["b"])]
    bad = records[1]
    assert isinstance(bad, BadRecord)
    assert bad.line == 3
    assert bad.reason.startswith(reason)


def test_a_quote_that_never_ends_costs_one_line(tmp_path: Path) -> None:
    lines = ["user,history", "u1,a", 'u2,"b', "u3,c", 'u4,"d e"', 'u5,"f', "u6,g"]
    reason = "not CSV: {}, with a quote that is open up to line {}"
    assert read(tmp_path / "h.csv", "\n".join(lines).encode()) == [
        HistoryRecord(2, "u1", ["a"]),
        BadRecord(3, reason.format("',' expected after '\"'", 5)),
        HistoryRecord(4, "u3", ["c"]),
        HistoryRecord(5, "u4", ["d", "e"]),
        BadRecord(6, reason.format("unexpected end of data", 7)),
        HistoryRecord(7, "u6", ["g"]),
    ]


def test_a_quote_that_is_open_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "MAX_LINE", most := 1 << 16)
    filler = b"u2,b\n" * (most // 5 + 1)
    found = read(tmp_path / "h.csv", b'user,history\nu1,"a\n' + filler + b'u3,"c"\n')
    assert isinstance(found[0], BadRecord)
    assert "longer than 65,536 characters, with a quote that is open up to line" in found[0].reason
    assert len(found) == 1 + most // 5 + 1 + 1
    assert found[1] == HistoryRecord(3, "u2", ["b"])
    assert found[-1] == HistoryRecord(len(found) + 1, "u3", ["c"])


def test_a_long_csv_history_is_read(tmp_path: Path) -> None:
    (record,) = read(tmp_path / "h.csv", b"user,history\nu1," + b"item " * 40_000 + b"\n")
    assert record == HistoryRecord(2, "u1", ["item"] * 40_000)


def test_whole_numbers_stand_for_their_text(tmp_path: Path) -> None:
    found = read(tmp_path / "h.jsonl", b'{"user": 7, "history": [10, "a", -1]}')
    assert found == [HistoryRecord(1, "7", ["10", "a", "-1"])]


@pytest.mark.parametrize(
    ("name", "content"), [("H.CSV", THREE_CSV), ("h.Csv.GZ", THREE_CSV), ("H.JSONL.GZ", THREE_JSON)]
)
def test_names_in_capitals(tmp_path: Path, name: str, content: str) -> None:
    data = gzip.compress(content.encode()) if name.endswith("GZ") else content.encode()
    (tmp_path / name).write_bytes(data)
    assert list(read_histories(tmp_path / name)) == moved(THREE, 1 if content == THREE_CSV else 0)


def test_gzip_without_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "h.jsonl"
    path.write_bytes(gzip.compress(THREE_JSON.encode()))
    assert list(read_histories(path)) == THREE
    stdin = io.BufferedReader(io.BytesIO(path.read_bytes()))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=stdin))
    assert list(read_histories(Path("-"))) == THREE


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match=r"^-: cannot be read: standard input is closed$"):
        list(read_histories(Path("-")))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"user,items\n", "h.csv:1: the header is ['user', 'items'], expected the columns user and history"),
        (b"u1,a b\n", "h.csv:1: the header is ['u1', 'a b'], expected the columns user and history"),
        (b"User,History\n", "expected the columns user and history"),
        (b"user,user,history\n", "each once and in small letters"),
        (b"user,history,Domain\n", "each once and in small letters"),
        (b"user,history, domain\n", "each once and in small letters"),
        (b'"user"x,history\n', "h.csv:1: the header is not CSV: "),
    ],
)
def test_csv_without_a_usable_header(tmp_path: Path, header: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "h.csv", header + b"u1,a\n")
    assert reason in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match=f"^{path}: cannot be read: "):
            list(read_histories(path))


@pytest.mark.parametrize("spoil", [lambda b: b[:-20], lambda b: b[:5], lambda b: b"plain text\n" * 9])
def test_broken_gzip(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "h.jsonl.gz"
    path.write_bytes(spoil(gzip.compress(THREE_JSON.encode() * 5000)))
    with pytest.raises(DataError, match=f"^{path}: cannot be read to its end: "):
        list(read_histories(path))


def test_damaged_gzip_gives_its_lines_up_to_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl.gz"
    content = bytearray(gzip.compress(THREE_JSON.encode() * 5000))
    content[-6] ^= 255  # the checksum
    path.write_bytes(content)
    found: list[Any] = []
    with pytest.raises(DataError, match="CRC check failed"):
        found.extend(read_histories(path))
    assert found[:3] == THREE


def test_several_gzip_members(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl.gz"
    path.write_bytes(b"".join(gzip.compress(line.encode()) for line in THREE_JSON.splitlines(keepends=True)))
    assert list(read_histories(path)) == THREE


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(THREE_JSON + "x" * 10_000_000)
    records = read_histories(path)
    assert [next(records), next(records)] == THREE[:2]
    records.close()


# what may stand in a field; a lone carriage return ends a line for CSV readers unless quoted
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
RECORDS = st.lists(
    st.tuples(TEXT, st.lists(TEXT.filter(lambda t: t and " " not in t), max_size=4), TEXT), max_size=6
)


@given(records=RECORDS)
@settings(max_examples=3 * settings().max_examples // 2)
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    objects = [{"user": u, "history": h, "domain": d} for u, h, d in records]
    path.write_text("".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects), "utf-8", newline="")
    expected = [HistoryRecord(n, u, h, d) for n, (u, h, d) in enumerate(records, 1)]
    assert list(read_histories(path)) == expected


@given(records=RECORDS)
@settings(max_examples=3 * settings().max_examples // 2)
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["user", "history", "domain"])
        writer.writerows([u, " ".join(h), d] for u, h, d in records)
    found = list(read_histories(path))
    assert [(r.user, r.history, r.domain or "") for r in found if isinstance(r, HistoryRecord)] == records


@pytest.mark.parametrize("name", ["h.jsonl", "h.jsonl.gz"])
@pytest.mark.parametrize("length", [MAX_LINE + 1, MAX_LINE + 2, 3 * MAX_LINE])
def test_a_line_that_would_fill_the_memory_is_one_bad_record(tmp_path: Path, name: str, length: int) -> None:
    longest = b'{"user": 1, "history": []' + b" " * (MAX_LINE - 27) + b"}\n"
    content = longest + b"[" * (length - 1) + b"\n" + THREE_JSON.encode()
    found = read(tmp_path / name, content)
    assert found == [
        HistoryRecord(1, "1", []),
        BadRecord(2, "longer than 16,777,216 characters"),
        *moved(THREE, 2),
    ]


def test_such_a_line_of_a_csv_is_one_bad_record(tmp_path: Path) -> None:
    content = THREE_CSV.encode() + b"u4," + b"a " * (MAX_LINE // 2) + b"\nu5,b,\n"
    assert read(tmp_path / "h.csv", content)[3:] == [
        BadRecord(5, "not CSV: longer than 16,777,216 characters"),
        HistoryRecord(6, "u5", ["b"]),
    ]
