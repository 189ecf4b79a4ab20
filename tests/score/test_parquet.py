"""Histories and answers in Parquet and Arrow files, compared with those in JSON Lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from columnar_files import SCHEMA, SUFFIXES, feather, pa, read, table_of, write
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_files import SETTINGS, names, parsed

from llmcdsr_lite.errors import DataError, MissingDependencyError, UsageError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score.histories import BadRecord, HistoryRecord, read_histories
from llmcdsr_lite.score.job import ScoreSettings, ScoreSummary, score_histories


@SUFFIXES
def test_columns_in_and_out_are_the_records_of_json_lines(
    recommender: Recommender, source: Path, tmp_path: Path, suffix: str
) -> None:
    job = replace(SETTINGS, titles=True)
    expected = score_histories(recommender, source, tmp_path / "out.jsonl", job)
    columns = write(tmp_path / f"in{suffix}", table_of(source).append_column("other", [list(range(50))]))
    assert score_histories(recommender, columns, tmp_path / f"out{suffix}", job) == expected
    answer = read(tmp_path / f"out{suffix}")
    texts = "list<item: string>" if suffix != ".parquet" else "list<element: string>"
    numbers = texts.replace("string", "float")
    assert [(field.name, str(field.type)) for field in answer.schema] == [
        ("user", "string"),
        ("items", texts),
        ("scores", numbers),
        ("titles", texts),
        ("domains", texts),
        ("unknown", "int64"),
        ("fallback", "bool"),
    ]
    lines = parsed(tmp_path / "out.jsonl")
    assert answer.num_rows == len(lines) == 50
    for row, line in zip(answer.to_pylist(), lines, strict=True):
        for column, field in (("items", "id"), ("titles", "title"), ("domains", "domain")):
            assert row[column] == [item[field] for item in line["items"]]
        assert row["scores"] == pytest.approx([item["score"] for item in line["items"]], abs=1e-6)
        assert all(row[name] == line[name] for name in ("user", "unknown", "fallback"))
    assert names(tmp_path) == sorted(["in.jsonl", f"in{suffix}", "out.jsonl", f"out{suffix}"])


def test_scores_are_those_of_a_batch(recommender: Recommender, source: Path, tmp_path: Path) -> None:
    score_histories(recommender, source, tmp_path / "out.parquet", replace(SETTINGS, batch_size=50, k=40))
    records = parsed(source)
    plain = [n for n, record in enumerate(records) if "domain" not in record]
    expected = recommender.recommend_batch([records[n]["history"] for n in plain], k=40)
    rows = read(tmp_path / "out.parquet").take(plain).to_pylist()
    for n, row in enumerate(rows):
        known = expected.rows[n] > 0
        assert row["items"] == expected.ids[n][known].tolist()
        assert row["scores"] == expected.scores[n][known].tolist()  # to the last bit
    assert len({len(row["items"]) for row in rows}) > 1  # fewer are left for a long history


def test_formats_may_be_named(recommender: Recommender, source: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", table_of(source)).rename(tmp_path / "in")
    job = replace(SETTINGS, input_format="parquet", output_format="arrow")
    score_histories(recommender, tmp_path / "in", tmp_path / "out", job)
    assert feather.read_table(str(tmp_path / "out")).num_rows == 50


@pytest.mark.parametrize(
    ("users", "histories"),
    [
        (pa.array([1, 2], pa.int32()), pa.array([[1, 2], []], pa.list_(pa.int64()))),
        (
            pa.array(["1", "2"], pa.large_string()),
            pa.array([["1", "2"], []], pa.large_list(pa.large_string())),
        ),
        (
            pa.array(["1", "2"]).dictionary_encode(),
            pa.array([["1", "2"], []], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        ),
    ],
)
@SUFFIXES
def test_strings_and_whole_numbers_of_any_width(
    tmp_path: Path, users: Any, histories: Any, suffix: str
) -> None:
    path = write(tmp_path / f"in{suffix}", pa.table({"history": histories, "user": users}))
    assert list(read_histories(path)) == [HistoryRecord(0, "1", ["1", "2"]), HistoryRecord(1, "2", [])]


@SUFFIXES
def test_bad_rows_are_named_and_left_out(recommender: Recommender, tmp_path: Path, suffix: str) -> None:
    users = ["u0", None, "u2", "u3", "u4"]
    histories = [["f1"], [], None, ["f1", None], ["f2"]]
    table = pa.table({"user": users, "history": histories, "domain": [None] * 4 + ["books"]})
    source, output = write(tmp_path / f"in{suffix}", table), tmp_path / f"out{suffix}"
    reports: list[str] = []
    job = replace(SETTINGS, on_error="skip", batch_size=1)
    summary = score_histories(recommender, source, output, job, report=reports.append)
    assert read(output)["user"].to_pylist() == ["u0"]
    assert summary == ScoreSummary(records=5, users=1, bad=4)
    assert reports == [
        f"{source}: row 1: field 'user' must be a string or a number, found None",
        f"{source}: row 2: field 'history' must be a list of item ids, found None",
        f"{source}: row 3: field 'history' must be a list of item ids, found ['f1', None]",
        f"{source}: row 4: domain is 'books', expected 'food' or 'kitchen'",
    ]
    output.unlink()
    with pytest.raises(DataError, match=r"row 1: field 'user'"):
        score_histories(recommender, source, output, SETTINGS)
    assert names(tmp_path) == [f"in{suffix}"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"user": ["u"], "items": [["f1"]]},
            r"the columns are \['user', 'items'\], expected user and history",
        ),
        ({"history": [["f1"]]}, r"the columns are \['history'\], expected user and history and, optionally"),
    ],
)
@SUFFIXES
def test_columns_that_are_missing(tmp_path: Path, table: dict[str, Any], message: str, suffix: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_histories(write(tmp_path / f"in{suffix}", pa.table(table))))


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    table = pa.table([[["f1"]], ["u"], ["v"]], names=["history", "user", "user"])
    with pytest.raises(DataError, match=r"'user', 'user'\], expected .* each once"):
        list(read_histories(write(tmp_path / "in.arrow", table)))


@SUFFIXES
def test_a_history_of_another_type(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"in{suffix}", pa.table({"user": ["u"], "history": ["f1 f2"]}))
    (record,) = read_histories(path)
    assert record == BadRecord(0, "field 'history' must be a list of item ids, found 'f1 f2'")


@SUFFIXES
def test_text_that_is_not_utf8(tmp_path: Path, suffix: str) -> None:
    offsets = pa.array([0, 1], pa.int32()).buffers()[1]
    users = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff"))
    path = write(tmp_path / f"in{suffix}", pa.table({"user": users, "history": [["f1"]]}))
    with pytest.raises(DataError, match=r"cannot be read as .*UTF8"):
        list(read_histories(path))


@SUFFIXES
@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 400])
def test_a_file_of_another_format(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"in{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"in\{suffix}: cannot be read as '(parquet|arrow)': "):
        list(read_histories(path))
    path.unlink()
    with pytest.raises(DataError, match=rf"in\{suffix}: cannot be read: No such file"):
        list(read_histories(path))


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_refused_or_read(tmp_path: Path, source: Path, seed: int) -> None:
    path = write(tmp_path / ("in.parquet" if seed % 2 else "in.arrow"), table_of(source))
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    if seed % 3:
        for place in rng.integers(0, len(content), 5):
            content[place] ^= int(rng.integers(1, 256))
    else:
        del content[int(rng.integers(len(content))) :]
    path.write_bytes(content)
    try:
        records = list(read_histories(path))
    except DataError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - either is right
    else:
        assert all(isinstance(record, HistoryRecord | BadRecord) for record in records)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_streams_and_gzip_are_refused(
    recommender: Recommender, source: Path, tmp_path: Path, format: Any
) -> None:
    message = f"-: the format '{format}' needs a file, not standard input or output"
    with pytest.raises(UsageError, match=message):
        score_histories(recommender, source, "-", ScoreSettings(output_format=format))
    with pytest.raises(UsageError, match=message):
        score_histories(recommender, "-", tmp_path / "out", ScoreSettings(input_format=format))
    with pytest.raises(UsageError, match=f"the format '{format}' is not compressed again"):
        score_histories(recommender, source, tmp_path / f"out.{format}.gz")
    with pytest.raises(UsageError, match=r"name a file without \.gz"):
        score_histories(recommender, tmp_path / f"in.{format}.gz", tmp_path / "out")
    assert names(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize("arguments", [("in.parquet", "out.jsonl"), ("in.jsonl", "out.arrow")])
def test_without_pyarrow(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]
) -> None:
    source, output = (tmp_path / name for name in arguments)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"needs pyarrow .*llmcdsr-lite\[parquet\]"):
        score_histories(recommender, source, output)
    assert names(tmp_path) == []


@SUFFIXES
def test_without_any_user(recommender: Recommender, tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"in{suffix}", SCHEMA.empty_table())
    assert score_histories(recommender, source, tmp_path / f"out{suffix}") == ScoreSummary()
    answer = read(tmp_path / f"out{suffix}")
    assert (answer.num_rows, answer.column_names) == (0, ["user", "items", "scores", "unknown", "fallback"])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=4), st.none() | TEXT), max_size=8), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_any_text_is_read_as_json_lines_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[str], str | None]], group: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    records = [dict(zip(SCHEMA.names, row, strict=True)) for row in rows]
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write(folder / "in.parquet", pa.Table.from_pylist(records, SCHEMA), row_group_size=group)
    expected = [replace(record, line=record.line - 1) for record in read_histories(folder / "in.jsonl")]
    assert list(read_histories(folder / "in.parquet")) == expected


def test_the_command_reads_and_writes_parquet(
    llmcdsr: Callable[..., Any], bundle_folder: Path, source: Path, tmp_path: Path
) -> None:
    write(tmp_path / "in.parquet", table_of(source))
    command = ("score", "in.parquet", "--model", bundle_folder, "-k", "3")
    done = llmcdsr(*command, "-o", "out.feather", "--processes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out.feather")["user"].to_pylist() == [f"u{n}" for n in range(50)]
    done = llmcdsr(*command, "--output-format", "parquet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"-: the format 'parquet' needs a file, not standard input or output" in done.stderr
