from __future__ import annotations

import contextlib
import csv
import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.ingest.records import ABSENT, MAX_LINE, read_records

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\r\n"), max_size=8)


def read(path: Path, content: str | bytes, optional: tuple[str, ...] = ()) -> list[tuple[int, list[str]]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(line, list(values)) for line, values in read_records(path, ("a", "b"), optional)]


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1).filter(lambda rows: ("a", "b") not in rows))
def test_csv_reads_what_the_csv_module_wrote(rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        with path.open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows([("a", "b"), *rows])
        assert [tuple(values) for _, values in read_records(path, ("a", "b"))] == rows


@given(
    st.lists(st.tuples(PLAIN, PLAIN), min_size=1).filter(lambda rows: ("a", "b") not in rows), st.booleans()
)
def test_tsv_reads_cells_as_they_stand(rows: list[tuple[str, str]], packed: bool) -> None:
    text = "".join(f"{first}\t{second}\n" for first, second in [("a", "b"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.tsv.gz" if packed else "x.tsv")
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        found = [(line, tuple(values)) for line, values in read_records(path, ("a", "b"))]
    assert found == list(enumerate(rows, 2))


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1), st.booleans())
def test_json_lines_reads_what_the_json_module_wrote(rows: list[tuple[str, str]], ascii_only: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_text(
            "".join(json.dumps({"b": b, "a": a}, ensure_ascii=ascii_only) + "\n" for a, b in rows),
            encoding="utf-8",
        )
        found = [(line, tuple(values)) for line, values in read_records(path, ("a", "b"))]
    assert found == list(enumerate(rows, 1))


@given(st.sampled_from([".csv", ".tsv", ".jsonl", ".csv.gz"]), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            assert all(len(values) == 2 for _, values in read_records(path, ("a", "b")))


def test_columns_are_picked_by_name_and_a_missing_optional_one_is_absent(tmp_path: Path) -> None:
    assert read(tmp_path / "x.csv", "c,b,a\n1,2,3\n", ("c", "d")) == [(2, ["3", "2", "1", ABSENT])]
    assert read(tmp_path / "x.jsonl", '{"c": "1", "b": "2", "a": "3"}', ("c", "d")) == [
        (1, ["3", "2", "1", ABSENT])
    ]
    with pytest.raises(DataError, match="stands for NUL"):
        read(tmp_path / "x.jsonl", '{"c": "\\u0000", "b": "2", "a": "3"}', ("c", "d"))


def test_byte_order_mark_crlf_blank_lines_and_missing_last_line_end_are_fine(tmp_path: Path) -> None:
    assert read(tmp_path / "x.csv", b"\xef\xbb\xbfa,b\r\n\r\n1,2\r\n3,4") == [
        (3, ["1", "2"]),
        (4, ["3", "4"]),
    ]
    assert read(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"a":"1","b":"2"}\r\n\r\n{"a":"3","b":"4"}') == [
        (1, ["1", "2"]),
        (3, ["3", "4"]),
    ]


def test_a_quoted_cell_may_span_lines_and_lines_are_still_counted(tmp_path: Path) -> None:
    assert read(tmp_path / "x.csv", 'a,b\n"1\n2",3\n4,5\n') == [(2, ["1\n2", "3"]), (4, ["4", "5"])]


def test_json_numbers_become_text_and_null_an_empty_cell(tmp_path: Path) -> None:
    assert read(tmp_path / "x.jsonl", '{"a": 12, "b": 1.5}\n{"a": null, "b": ""}\n') == [
        (1, ["12", "1.5"]),
        (2, ["", ""]),
    ]


def test_json_numbers_are_taken_as_they_are_written(tmp_path: Path) -> None:
    written = ["0.12345678901234567891", "0.12345678901234567892", "1e400", "-0", "9" * 5000]
    lines = "".join(f'{{"a": {number}, "b": 1.0}}\n' for number in written)
    found = [values[0] for _, values in read(tmp_path / "x.jsonl", lines)]
    assert found == written
    assert {type(value) for value in found} == {str}


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("x.csv", "a,b\n1,2\n1,2,3\n", 3, "3 fields, expected 2"),
        ("x.csv", "a,b\n1,2\n1\n", 3, "1 fields, expected 2"),
        ("x.csv", "a,c\n1,2\n", 1, "no column is named 'b'; found 'a', 'c'"),
        ("x.csv", "a,b,a\n1,2,3\n", 1, "more than one column is named 'a'"),
        ("x.csv", "a,b\n1,2\na,b\n3,4\n", 3, "the header line again"),
        ("x.csv", b"a,b\n1,2\n\xff,4\n", 3, "not UTF-8"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16"), 1, "NUL byte"),
        ("x.csv", "a,b\n1,2\n3,\0\n", 3, "NUL byte"),
        ("x.csv", 'a,b\n1,2\n"3,4\n5,6\n', 3, "unexpected end of data"),
        ("x.csv", 'a,b\n1,2\n"3"x,4\n', 3, "expected after"),
        ("x.csv", "a,b\n1,2\n3," + "4" * 140_000 + "\n", 3, "field larger than field limit"),
        ("x.csv", "a,b\n1," + "2" * MAX_LINE, 2, "longer than"),
        ("x.tsv", "a\tb\n1\t2\n3,4\n", 3, "1 fields, expected 2"),
        ("x.jsonl", '{"a": 1, "b": 2}\n{"a": 1,\n', 2, "not a line of JSON"),
        ("x.jsonl", '{"a": 1, "b": 2}\n[1, 2]\n', 2, "a JSON array, expected an object"),
        ("x.jsonl", '{"a": 1, "b": 2}\n7\n', 2, "a JSON number, expected an object"),
        ("x.jsonl", '{"a": 1, "b": 2}\n{"a": 1, "c": 2}\n', 2, "no field is named 'b'; found 'a', 'c'"),
        ("x.jsonl", '{"a": 1, "b": [2]}\n', 1, "a JSON array, expected text or a number"),
        ("x.jsonl", '{"a": 1, "b": 2}\n7.5\n', 2, "a JSON number, expected an object"),
        ("x.jsonl", '{"a": 1, "b": 2}\n"7"\n', 2, "a JSON string, expected an object"),
        ("x.jsonl", '{"a": 1, "b": true}\n', 1, "a JSON boolean, expected text or a number"),
        ("x.jsonl", '{"a": 1, "b": NaN}\n', 1, "NaN is not JSON"),
        ("x.jsonl", '{"a": 1, "b": "\\ud800"}\n', 1, "half a surrogate pair"),
        ("x.jsonl", '{"a": 1, "b": "\\u0000"}\n', 1, "stands for NUL"),
        ("x.jsonl", "[" * 100_000 + "\n", 1, "not a line of JSON"),
        ("x.ndjson", b'{"a": "\xff", "b": 2}\n', 1, "not UTF-8"),
    ],
)
def test_bad_content_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, line: int, message: str
) -> None:
    before = csv.field_size_limit(1 << 17)  # of the process: other tests may have raised it
    with pytest.raises(DataError) as caught:
        read(tmp_path / name, content)
    csv.field_size_limit(before)
    assert str(caught.value).startswith(f"{tmp_path / name}:{line}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "the file is empty"),
        ("x.csv", b"\n\r\n", "the file is empty"),
        ("x.jsonl", b" \n", "the file is empty"),
        ("x.csv.gz", b"", "the file is empty"),
        ("x.csv.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("x.csv.gz", b"a,b\n1,2\n", "does not hold gzip data"),
        ("x.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "its name must end in .gz"),
        ("x.txt", b"a,b\n1,2\n", "the format is told by the name"),
        ("x.json", b"{}", ".jsonl"),
    ],
)
def test_files_that_are_not_what_their_name_says_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, content)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(read_records(tmp_path / "none.csv", ("a", "b")))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        list(read_records(tmp_path / "folder.csv", ("a", "b")))


def test_gzip_cut_short_or_damaged_is_refused_with_the_line_reached(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i * i % 1009}\n" for i in range(200_000))
    packed = gzip.compress(f"a,b\n{rows}".encode())
    path = tmp_path / "x.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    seen = 0
    message = ""
    try:
        for seen, values in read_records(path, ("a", "b")):
            assert list(values) == [str(seen - 2), str((seen - 2) ** 2 % 1009)]
    except DataError as error:
        message = str(error)
    assert seen > 1000
    assert message.startswith(f"{path}:{seen + 1}: ")
    assert "cut short" in message
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"damaged|not UTF-8|fields|NUL"):
        read(path, bytes(damaged))
