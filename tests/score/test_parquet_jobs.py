"""Jobs on Parquet and Arrow files: processes, resuming, and memory that stays flat."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from columnar_files import SUFFIXES, pa, parquet, read, table_of, write
from scored_files import SETTINGS, names

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score import columns as score_columns
from llmcdsr_lite.score import output as score_output
from llmcdsr_lite.score.histories import HistoryRecord, read_histories
from llmcdsr_lite.score.job import ScoreSummary, score_histories


@pytest.mark.parametrize(
    "output", ["out.parquet", pytest.param("out.arrow", marks=pytest.mark.slow), "out.jsonl"]
)
def test_processes_write_the_same_bytes(
    recommender: Recommender, source: Path, tmp_path: Path, output: str
) -> None:
    pytest.importorskip("onnxruntime")
    assert recommender.bundle.folder is not None
    loaded = Recommender.load(recommender.bundle.folder)
    columns = write(tmp_path / "in.parquet", table_of(source))
    score_histories(loaded, columns, tmp_path / output, SETTINGS)
    alone = (tmp_path / output).read_bytes()
    summary = score_histories(loaded, columns, tmp_path / output, SETTINGS, processes=2)
    assert summary.users == 50
    assert (tmp_path / output).read_bytes() == alone


@SUFFIXES
def test_an_interrupted_job_is_resumed_to_the_same_bytes(
    recommender: Recommender, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    columns = write(tmp_path / f"in{suffix}", table_of(source))
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    expected = score_histories(recommender, columns, whole, SETTINGS)
    monkeypatch.setattr(score_output, "_SAVE_SECONDS", 0)

    def stop(summary: ScoreSummary) -> None:
        if summary.users == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_histories(recommender, columns, output, SETTINGS, progress=stop)
    assert not output.exists()
    partial = tmp_path / f"out{suffix}.partial"
    with partial.open("ab") as file:
        file.write(b"half a record batch")
    users: list[int] = []
    summary = score_histories(
        recommender, columns, output, SETTINGS, resume=True, progress=lambda done: users.append(done.users)
    )
    assert summary == expected
    assert users[0] == 24
    assert output.read_bytes() == whole.read_bytes()
    assert names(tmp_path) == sorted([columns.name, "in.jsonl", whole.name, output.name])


def test_a_file_that_cannot_be_made_at_the_end_is_made_by_resume(
    recommender: Recommender, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.parquet"
    output.write_bytes(b"old")
    reports: list[str] = []

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
        with pytest.raises(DataError, match=r"out\.parquet: cannot be written: No space left on device$"):
            score_histories(recommender, source, output, SETTINGS, report=reports.append)
    assert output.read_bytes() == b"old"
    assert reports == [f"{output}.partial holds the part done; resume continues"]
    assert names(tmp_path) == ["in.jsonl", "out.parquet", "out.parquet.partial", "out.parquet.partial.json"]
    score_histories(recommender, source, output, SETTINGS, resume=True, progress=pytest.fail)
    assert read(output).num_rows == 50
    assert names(tmp_path) == ["in.jsonl", "out.parquet"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 rows in one row group, 8 million item ids."""
    items = pa.array(np.arange(8_000_000) % 999_983).cast(pa.string())
    histories = pa.ListArray.from_arrays(pa.array(np.arange(0, 8_000_001, 40), pa.int32()), items)
    path = tmp_path_factory.mktemp("large") / "in.parquet"
    table = pa.table({"user": np.arange(200_000), "history": histories})
    parquet.write_table(table, path, row_group_size=200_000, use_dictionary=False, compression="none")
    assert parquet.ParquetFile(path).num_row_groups == 1
    assert path.stat().st_size > 60_000_000
    return path


@pytest.mark.slow
def test_a_large_file_is_read_with_flat_memory(large: Path) -> None:
    next(read_histories(large))  # what pyarrow imports meanwhile is not counted
    before = pa.total_allocated_bytes()
    highest = n_rows = 0
    tracemalloc.start()
    try:
        for record in read_histories(large):
            assert isinstance(record, HistoryRecord)
            n_rows += 1
            if n_rows % 500 == 0:
                highest = max(highest, pa.total_allocated_bytes() - before)
            if n_rows == 20_000:  # tracing is slow: of Python's objects, there are no more afterwards
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak < 10_000_000
    finally:
        tracemalloc.stop()
    assert n_rows == 200_000
    assert highest < 16_000_000


def test_a_large_output_is_packed_with_flat_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_columns, "_GROUP_BYTES", 1 << 20)
    schema = score_columns.answer_schema()
    stream = tmp_path / "out.partial"
    answer = {"items": ["item"] * 10, "scores": [0.5] * 10, "unknown": 0, "fallback": False}
    with pa.ipc.new_stream(str(stream), schema) as file:
        for start in range(0, 200_000, 2_000):
            rows = [{"user": f"u{start + n}", **answer} for n in range(2_000)]
            file.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    before, allocated = pa.total_allocated_bytes(), []
    groups: Callable[[Any], Any] = score_columns._groups

    def watched(batches: Any) -> Any:
        for group in groups(batches):
            allocated.append(pa.total_allocated_bytes() - before)
            yield group

    monkeypatch.setattr(score_columns, "_groups", watched)
    for name in ("out.parquet", "out.arrow"):
        score_columns.pack(stream, tmp_path / name, "parquet" if name == "out.parquet" else "arrow")
        assert read(tmp_path / name)["user"].to_pylist() == [f"u{n}" for n in range(200_000)]
    assert len(allocated) > 20
    assert max(allocated) < 10_000_000 < stream.stat().st_size
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == len(allocated) // 2


def test_no_more_than_a_batch_of_rows_is_in_flight(
    recommender: Recommender, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmcdsr_lite import columnar
    from llmcdsr_lite.score import histories

    read_rows = columnar.read_rows
    n_read = 0

    def counted(*arguments: Any) -> Any:
        nonlocal n_read
        for row in read_rows(*arguments):
            n_read += 1
            yield row

    monkeypatch.setattr(histories, "read_rows", counted)
    ahead: list[int] = []
    score_histories(
        recommender,
        write(tmp_path / "in.parquet", table_of(source)),
        tmp_path / "out.parquet",
        SETTINGS,
        progress=lambda summary: ahead.append(n_read - summary.users),
    )
    assert ahead == [0] * 13
