"""Batches of usable records out of a history file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.histories import BadRecord, HistoryRecord, read_histories
from llmcdsr_lite.score.settings import ScoreSettings


@dataclass(frozen=True)
class HistoryBatch:
    """Consecutive records of a file.

    Parameters
    ----------
    n_records : int
        Records read, bad ones included.
    records : list of HistoryRecord
        Those to score.
    bad : list of str
        A message for each of the others.
    """

    n_records: int
    records: list[HistoryRecord]
    bad: list[str]


def read_batches(
    source: Path, settings: ScoreSettings, domains: Collection[str], start: int = 0
) -> Iterator[HistoryBatch]:
    """Read a history file a batch at a time, never further.

    Parameters
    ----------
    source : Path
        History file, see `llmcdsr_lite.histories`; ``-`` is standard input.
    settings : ScoreSettings
    domains : collection of str
        What a record may name.
    start : int
        Records to pass over.

    Yields
    ------
    HistoryBatch

    Raises
    ------
    DataError
        If the file cannot be read, or a record is bad and `settings.on_error` is "fail".
    """
    records = islice(read_histories(source, settings.input_format, settings.separator), start, None)
    while found := list(islice(records, settings.batch_size)):
        yield _batch(found, source, settings, domains)


def _batch(
    found: list[HistoryRecord | BadRecord], source: Path, settings: ScoreSettings, domains: Collection[str]
) -> HistoryBatch:
    batch = HistoryBatch(len(found), [], [])
    for record in found:
        checked = check_domain(record, domains)
        if isinstance(checked, HistoryRecord):
            batch.records.append(checked)
            continue
        message = f"{source}:{checked.line}: {checked.reason}"
        if settings.on_error == "fail":
            raise DataError(message)
        batch.bad.append(message)
    return batch


def check_domain(record: HistoryRecord | BadRecord, domains: Collection[str]) -> HistoryRecord | BadRecord:
    """The record, or why it is bad: it may name one of `domains`, or none."""
    if isinstance(record, BadRecord) or record.domain is None or record.domain in domains:
        return record
    names = " or ".join(map(repr, domains))
    return BadRecord(record.line, f"domain is {record.domain!r}, expected {names}")
