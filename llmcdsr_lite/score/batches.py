"""Batches of usable records out of a history file, and the settings of the job that scores them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.request import check_choice
from llmcdsr_lite.score.histories import BadRecord, FileFormat, HistoryRecord, located, read_histories

MAX_PROCESSES = 1024
MAX_BATCH = 1 << 20  # users; their answers must fit into memory


@dataclass(frozen=True)
class ScoreSettings:
    """How histories are scored.

    Parameters
    ----------
    k : int
        Items a user.
    domain : str, optional
        Recommend from this domain where a record names none.
    exclude_seen : bool, optional
        Leave out the items of the history; None does as the bundle has it.
    on_error : {"fail", "skip"}
        Stop at the first bad record, or report it, leave it out and go on.
    titles : bool
        Write titles and domains beside ids and scores.
    input_format, output_format : {"jsonl", "csv", "parquet", "arrow"}, optional
        Told by the file names where not given.
    separator : str
        Between the item ids of a CSV history.
    batch_size : int
        Users scored at a time.
    pseudo : {"auto", "off"}
        Pseudo items as the bundle's settings have it, or none.
    """

    k: int = 10
    domain: str | None = None
    exclude_seen: bool | None = None
    on_error: Literal["fail", "skip"] = "fail"
    titles: bool = False
    input_format: FileFormat | None = None
    output_format: FileFormat | None = None
    separator: str = " "
    batch_size: int = 256
    pseudo: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k must be at least 1, found {self.k}")
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise UsageError(f"batch_size must be from 1 to {MAX_BATCH:,}, found {self.batch_size}")
        if not self.separator:
            raise UsageError("the separator must not be empty")
        check_choice("on_error", self.on_error, ("fail", "skip"))
        check_choice("pseudo", self.pseudo, ("auto", "off"))
        for name in ("input_format", "output_format"):
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), get_args(FileFormat))


@dataclass(frozen=True)
class HistoryBatch:
    """Consecutive records of a file.

    Parameters
    ----------
    records : list of HistoryRecord
        Those to score.
    bad : list of str
        A message for each of the others.
    digest : str
        SHA-256 of all records of the file up to here.
    """

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
        History file, see `llmcdsr_lite.score.histories`; ``-`` is standard input.
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
    batch = HistoryBatch([], [], digest)
    for record in found:
        checked = check_domain(record, domains)
        if isinstance(checked, HistoryRecord):
            batch.records.append(checked)
            continue
        message = located(source, settings.input_format, checked)
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
