"""Answers as columns: those that Ray, Spark and Parquet files get; pyarrow is imported where Arrow is made.

A Parquet or Arrow file cannot be cut and continued. While a job runs, its output is an Arrow IPC stream,
which can: a schema, and a message for every batch. `pack` makes the file of it at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.columnar import ColumnarFormat, import_pyarrow
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score.batches import ScoreSettings
from llmcdsr_lite.score.histories import FileFormat, HistoryRecord, is_columnar
from llmcdsr_lite.score.lines import LineScorer, ScoredBatch, output_header, recommend_records

_GROUP_BYTES = 1 << 25  # of a Parquet row group, or a record batch of an Arrow file, before compression


def answer_columns(
    recommender: Recommender, records: Sequence[HistoryRecord], settings: ScoreSettings
) -> dict[str, npt.NDArray[Any]]:
    """Answers for n records, in their order.

    Parameters
    ----------
    recommender : Recommender
    records : sequence of HistoryRecord
    settings : ScoreSettings

    Returns
    -------
    dict of str to array (n,)
        ``user`` (str), ``items`` (list of ids, best first), ``scores`` (list of float), with
        `settings.titles` ``titles`` and ``domains`` (lists of str), then ``unknown`` (int64, ids of the
        history that are not in the catalogue) and ``fallback`` (bool).
    """
    catalogue = recommender.items
    lists = ("items", "scores", *(("titles", "domains") if settings.titles else ()))
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.empty(len(records), dtype=object) for name in ("user", *lists)
    }
    columns["unknown"] = np.zeros(len(records), dtype=np.int64)
    columns["fallback"] = np.zeros(len(records), dtype=bool)
    for places, answers in recommend_records(recommender, records, settings):
        columns["fallback"][places] = answers.fallback
        for n, i in enumerate(places):
            rows = [row for row in answers.rows[n].tolist() if row]  # those that the filters left, in front
            columns["user"][i] = records[i].user
            columns["items"][i] = answers.ids[n, : len(rows)].tolist()
            columns["scores"][i] = answers.scores[n, : len(rows)].tolist()
            columns["unknown"][i] = len(answers.unknown_items[n])
            if settings.titles:
                columns["titles"][i] = [catalogue.titles[row - 1] for row in rows]
                columns["domains"][i] = [catalogue.domain_of_row(row).name for row in rows]
    return columns


def answer_schema(*, titles: bool = False) -> Any:
    """Arrow schema of `answer_columns`; told, not guessed: a batch may have no item at all."""
    pyarrow = import_pyarrow("an answer in columns")
    texts = pyarrow.list_(pyarrow.string())
    return pyarrow.schema(
        {
            "user": pyarrow.string(),
            "items": texts,
            "scores": pyarrow.list_(pyarrow.float32()),
            **({"titles": texts, "domains": texts} if titles else {}),
            "unknown": pyarrow.int64(),
            "fallback": pyarrow.bool_(),
        }
    )


@dataclass(frozen=True)
class ColumnScorer:
    """Scores records and makes messages of an IPC stream of the answers.

    Parameters
    ----------
    recommender : Recommender
    settings : ScoreSettings
    """

    recommender: Recommender
    settings: ScoreSettings

    def score(self, records: Sequence[HistoryRecord]) -> ScoredBatch:
        """A record batch for the records, in their order; nothing if there are none."""
        from pyarrow import RecordBatch

        if not records:
            return ScoredBatch(b"", 0, 0)
        columns = answer_columns(self.recommender, records, self.settings)
        lists = {name: column.tolist() for name, column in columns.items()}
        batch = RecordBatch.from_pydict(lists, answer_schema(titles=self.settings.titles))
        return ScoredBatch(bytes(batch.serialize()), sum(lists["unknown"]), sum(lists["fallback"]))


def make_scorer(
    recommender: Recommender, settings: ScoreSettings, format: FileFormat
) -> LineScorer | ColumnScorer:
    """Scorer for an output format."""
    if is_columnar(format):
        return ColumnScorer(recommender, settings)
    return LineScorer(recommender, settings, format)


def header(settings: ScoreSettings, format: FileFormat) -> bytes:
    """Beginning of an output: the schema of a stream, or what lines begin with."""
    if is_columnar(format):
        return bytes(answer_schema(titles=settings.titles).serialize())
    return output_header(settings, format)


def pack(stream: Path, output: Path, format: ColumnarFormat) -> None:
    """Write a file with the record batches of an IPC stream, a few of them in memory at a time."""
    from pyarrow import Table, ipc, parquet

    with stream.open("rb") as source, ipc.open_stream(source) as reader:
        if format == "parquet":
            writer = parquet.ParquetWriter(output, reader.schema)
        else:
            writer = ipc.new_file(str(output), reader.schema)
        with writer:
            for group in _groups(reader):
                writer.write_table(Table.from_batches(group).combine_chunks())


def _groups(batches: Iterator[Any]) -> Iterator[list[Any]]:
    """Consecutive record batches, together large enough for a row group."""
    group: list[Any] = []
    n_bytes = 0
    for batch in batches:
        group.append(batch)
        n_bytes += batch.nbytes
        if n_bytes >= _GROUP_BYTES:
            yield group
            group, n_bytes = [], 0
    if group:
        yield group
