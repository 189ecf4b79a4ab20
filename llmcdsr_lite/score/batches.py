"""Batches of usable records out of a history file."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator
from contextlib import closing
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
    digest : str
        SHA-256 of all records of the file up to here.
    """

    n_records: int
    records: list[HistoryRecord]
    bad: list[str]
    digest: str


def read_batches(
    source: Path, settings: ScoreSettings, domains: Collection[str], start: int = 0, digest: str = ""
) -> Generator[HistoryBatch, None, None]:
    """Read a history file a batch at a time, never further; close the generator if it is not read to its end.

    Parameters
    ----------
    source : Path
        History file, see `llmcdsr_lite.histories`; ``-`` is standard input.
    settings : ScoreSettings
    domains : collection of str
        What a record may name.
    start : int
        Records to pass over.
    digest : str
        Of those records: what the last batch of them had.

    Yields
    ------
    HistoryBatch

    Raises
    ------
    DataError
        If the file cannot be read, a record is bad and `settings.on_error` is "fail", or the records to pass
        over are others.
    """
    seen = hashlib.sha256()
    with closing(read_histories(source, settings.input_format, settings.separator)) as records:
        for record in islice(records, start):
            seen.update(_content(record))
        if start and seen.hexdigest() != digest:
            raise DataError(
                f"{source}: its first {start:,} records are not those that were scored before; "
                "give the same input, or start over without resume"
            )
        while found := list(islice(records, settings.batch_size)):
            for record in found:
                seen.update(_content(record))
            yield _batch(found, source, settings, domains, seen.hexdigest())


def _content(record: HistoryRecord | BadRecord) -> bytes:
    if isinstance(record, BadRecord):
        return repr(record).encode(errors="backslashreplace")
    return "\0".join((record.user, record.domain or "", *record.history, "")).encode()


def _batch(
    found: list[HistoryRecord | BadRecord],
    source: Path,
    settings: ScoreSettings,
    domains: Collection[str],
    digest: str,
) -> HistoryBatch:
    batch = HistoryBatch(len(found), [], [], digest)
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
