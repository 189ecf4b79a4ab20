"""Scoring history files: batches inside, flat memory, input order kept, interrupted outputs continued."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from llmcdsr_lite.bundle import CONFIG
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.histories import (
    STREAM,
    BadRecord,
    FileFormat,
    HistoryRecord,
    file_format,
    read_histories,
)
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.results import BatchRecommendations

_SAVE_SECONDS = 2.0  # a killed job loses at most about so much work


@dataclass(frozen=True)
class ScoreSettings:
    """How histories are scored.

    Parameters
    ----------
    k : int
        Items a user.
    domain : str, optional
        Recommend from this domain where a record names none.
    exclude_seen : bool
        Leave out the items of the history.
    on_error : {"fail", "skip"}
        Stop at the first bad record, or report it, leave it out and go on.
    titles : bool
        Write titles and domains beside ids and scores.
    input_format, output_format : {"jsonl", "csv"}, optional
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
    exclude_seen: bool = True
    on_error: Literal["fail", "skip"] = "fail"
    titles: bool = False
    input_format: FileFormat | None = None
    output_format: FileFormat | None = None
    separator: str = " "
    batch_size: int = 256
    pseudo: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        if self.k < 1 or self.batch_size < 1:
            raise UsageError(f"k and batch_size must be at least 1, found {self.k} and {self.batch_size}")
        if not self.separator:
            raise UsageError("the separator must not be empty")
        if self.pseudo not in ("auto", "off"):
            raise UsageError(f"pseudo is {self.pseudo!r}, expected 'auto' or 'off'")


@dataclass
class ScoreSummary:
    """Counts of a scoring job; with `resume` those of the part done before are included.

    Parameters
    ----------
    records : int
        Records read.
    users : int
        Users scored.
    bad : int
        Records left out.
    unknown_items : int
        Items of histories that are not in the catalogue.
    fallbacks : int
        Users without a known item, who got the most popular items.
    """

    records: int = 0
    users: int = 0
    bad: int = 0
    unknown_items: int = 0
    fallbacks: int = 0


def score_histories(
    recommender: Recommender,
    source: Path,
    output: Path,
    settings: ScoreSettings | None = None,
    *,
    resume: bool = False,
    report: Callable[[str], None] | None = None,
    progress: Callable[[ScoreSummary], None] | None = None,
) -> ScoreSummary:
    """Score a history file.

    While it runs, the output grows as ``OUTPUT.partial``, with ``OUTPUT.partial.json`` telling how far it
    is; at the end it takes its name. If the job is interrupted, both stay, and `resume` continues.

    Parameters
    ----------
    recommender : Recommender
    source : Path
        History file, see `llmcdsr_lite.histories`; ``-`` is standard input.
    output : Path
        ``-`` is standard output.
    settings : ScoreSettings, optional
    resume : bool
        Continue an interrupted job with the same settings, if there is one.
    report : callable, optional
        Given a message for every bad record that is left out.
    progress : callable, optional
        Given the counts so far, after every batch.

    Returns
    -------
    ScoreSummary

    Raises
    ------
    DataError
        If the input cannot be read, a record is bad and `on_error` is "fail", or the interrupted output
        is of another job.
    """
    settings = settings or ScoreSettings()
    if settings.domain is not None:
        recommender.items.domain(settings.domain)
    if output == STREAM:
        if resume:
            raise UsageError("standard output cannot be resumed; name an output file")
    else:
        _check_output(source, output)
    job = _fingerprint(recommender, source, settings)
    sink = _StreamSink() if output == STREAM else _FileSink(output, job, resume)
    summary = sink.summary
    lines = _Lines(recommender, settings, settings.output_format or file_format(output))
    records = read_histories(source, settings.input_format, settings.separator)
    with sink:
        if summary.records == 0:
            sink.write(lines.header())
        for batch in _batches(islice(records, summary.records, None), settings.batch_size):
            good = list(_good(batch, source, recommender, settings, summary, report))
            sink.write(lines.score(good, summary))
            summary.records += len(batch)
            summary.users += len(good)
            sink.save(force=False)
            if progress is not None:
                progress(summary)
    return summary


def _batches(
    records: Iterable[HistoryRecord | BadRecord], size: int
) -> Iterator[list[HistoryRecord | BadRecord]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch


def _good(
    batch: list[HistoryRecord | BadRecord],
    source: Path,
    recommender: Recommender,
    settings: ScoreSettings,
    summary: ScoreSummary,
    report: Callable[[str], None] | None,
) -> Iterator[HistoryRecord]:
    """The usable records of a batch; the others are reported, or stop the job."""
    for record in batch:
        if isinstance(record, HistoryRecord):
            if record.domain is None or record.domain in recommender.domains:
                yield record
                continue
            names = " or ".join(map(repr, recommender.domains))
            record = BadRecord(record.line, f"domain is {record.domain!r}, expected {names}")
        message = f"{source}:{record.line}: {record.reason}"
        if settings.on_error == "fail":
            raise DataError(message)
        summary.bad += 1
        if report is not None:
            report(message)


class _Lines:
    """Scores records and formats the answers."""

    def __init__(self, recommender: Recommender, settings: ScoreSettings, format: FileFormat) -> None:
        self._recommender = recommender
        self._settings = settings
        self._format = format

    def header(self) -> str:
        if self._format == "jsonl":
            return ""
        extra = ["domain", "title"] if self._settings.titles else []
        return _csv_lines([["user", "rank", "item", "score", "fallback", *extra]])

    def score(self, records: list[HistoryRecord], summary: ScoreSummary) -> str:
        """Lines for the records, in their order."""
        wanted = [record.domain or self._settings.domain for record in records]
        lines = [""] * len(records)
        for domain in dict.fromkeys(wanted):
            places = [i for i, name in enumerate(wanted) if name == domain]
            answers = self._recommender.recommend_batch(
                [records[i].history for i in places],
                domain=domain,
                k=min(self._settings.k, len(self._recommender.items)),
                exclude_seen=self._settings.exclude_seen,
                pseudo=self._settings.pseudo,
            )
            summary.unknown_items += int(answers.n_unknown.sum())
            summary.fallbacks += int(answers.fallback.sum())
            for n, i in enumerate(places):
                lines[i] = self._line(records[i].user, answers, n)
        return "".join(lines)

    def _line(self, user: str, answers: BatchRecommendations, n: int) -> str:
        catalogue = self._recommender.items
        found = [
            (row, item, round(score, 6))
            for row, item, score in zip(
                answers.rows[n].tolist(), answers.ids[n], answers.scores[n].tolist(), strict=True
            )
            if row
        ]
        fallback = bool(answers.fallback[n])
        if self._format == "csv":
            rows = [[user, rank, i, s, int(fallback)] for rank, (_, i, s) in enumerate(found, 1)]
            if self._settings.titles:
                for fields, (row, _, _) in zip(rows, found, strict=True):
                    fields += [catalogue.domain_of_row(row).name, catalogue.titles[row - 1]]
            return _csv_lines(rows)
        items: list[dict[str, Any]] = [{"id": item, "score": score} for _, item, score in found]
        if self._settings.titles:
            for described, (row, _, _) in zip(items, found, strict=True):
                described["domain"] = catalogue.domain_of_row(row).name
                described["title"] = catalogue.titles[row - 1]
        record = {"user": user, "items": items, "unknown": int(answers.n_unknown[n]), "fallback": fallback}
        return json.dumps(record, ensure_ascii=False) + "\n"


def _csv_lines(rows: list[list[Any]]) -> str:
    lines = _CsvLines()
    csv.writer(lines).writerows(rows)
    return "".join(lines)


class _CsvLines(list[str]):
    """Lines from csv.writer, whose own line end of two characters makes it quote both in a field."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


class _Sink(Protocol):
    """Where lines go."""

    summary: ScoreSummary

    def __enter__(self) -> Any: ...
    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...
    def write(self, text: str) -> None: ...
    def save(self, *, force: bool) -> None: ...


class _StreamSink:
    """Standard output."""

    def __init__(self) -> None:
        self.summary = ScoreSummary()

    def __enter__(self) -> _StreamSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            sys.stdout.buffer.flush()

    def write(self, text: str) -> None:
        sys.stdout.buffer.write(text.encode())

    def save(self, *, force: bool) -> None:
        sys.stdout.buffer.flush()


@dataclass
class _Progress:
    """Content of ``OUTPUT.partial.json``."""

    job: str
    size: int = 0
    summary: ScoreSummary = field(default_factory=ScoreSummary)


class _FileSink:
    """A file that grows beside its final name and can be continued from the last save."""

    def __init__(self, output: Path, job: str, resume: bool) -> None:
        self._output = output
        self._partial = output.with_name(output.name + ".partial")
        self._state_path = output.with_name(output.name + ".partial.json")
        self._progress = self._restore(job) if resume else _Progress(job)
        self.summary = self._progress.summary
        self._saved = time.monotonic()

    def _restore(self, job: str) -> _Progress:
        if not (self._partial.exists() and self._state_path.exists()):
            return _Progress(job)
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
            progress = _Progress(state["job"], int(state["size"]), ScoreSummary(**state["summary"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._state_path}: damaged ({error}); start over without resume") from None
        if progress.job != job:
            raise DataError(
                f"{self._partial}: is of another job (other model, input or settings); "
                "start over without resume"
            )
        if self._partial.stat().st_size < progress.size:
            raise DataError(f"{self._partial}: shorter than it was; start over without resume")
        return progress

    def __enter__(self) -> _FileSink:
        try:
            self._file = self._partial.open("r+b" if self._progress.size else "wb")
        except OSError as error:
            raise DataError(f"{self._partial}: cannot be written: {error.strerror}") from None
        if self._progress.size == 0:
            self._state_path.unlink(missing_ok=True)  # of an older job, whose lines are gone now
        self._file.truncate(self._progress.size)
        self._file.seek(self._progress.size)
        self._member = self._open_member()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # On failure, what was saved last stays for resume: the counts may be ahead of the lines by now.
        if kind is None:
            self.save(force=True)
        with suppress(OSError):
            self._member.close()
        self._file.close()
        if kind is None:
            os.replace(self._partial, self._output)
            self._state_path.unlink()
        elif self._progress.size == 0:
            self._partial.unlink(missing_ok=True)
            self._state_path.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        self._member.write(text.encode())

    def save(self, *, force: bool) -> None:
        """Make what is written durable and note how far it reaches, if the last time is a while ago."""
        if not force and time.monotonic() - self._saved < _SAVE_SECONDS:
            return
        if self._member is not self._file:
            self._member.close()  # ends a gzip member: the file can be cut here
        self._file.flush()
        os.fsync(self._file.fileno())
        self._progress.size = self._file.tell()
        with atomic_file(self._state_path) as temporary:
            temporary.write_text(json.dumps(asdict(self._progress)), encoding="utf-8")
        self._member = self._open_member()
        self._saved = time.monotonic()

    def _open_member(self) -> IO[bytes]:
        if self._output.suffix != ".gz":
            return self._file
        return gzip.GzipFile(fileobj=self._file, mode="wb", mtime=0)  # type: ignore[return-value]


def _check_output(source: Path, output: Path) -> None:
    """Refuse at once what could not be, or should not be, replaced at the end."""
    if output.exists() and not output.is_file():
        raise DataError(f"{output}: is not a regular file; name another, or - for standard output")
    if output.exists() and source != STREAM and source.exists() and output.samefile(source):
        raise DataError(f"{output}: is the input; name another output file")


def _fingerprint(recommender: Recommender, source: Path, settings: ScoreSettings) -> str:
    """What must be the same for an interrupted output to be continued.

    The batch size is part of it, since the last digits of a score depend on it.
    """
    folder = recommender.bundle.folder
    model = (folder / CONFIG).read_bytes() if folder is not None else b""
    job = {
        "model": hashlib.sha256(model).hexdigest(),
        "engine": [recommender.backend_name, recommender.search_name],
        "source": str(source),
        "source_state": _state(source),
        "settings": {**asdict(settings), "on_error": None},
    }
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def _state(source: Path) -> list[int]:
    """Size and time of change of a file; nothing of what can be read only once."""
    if source == STREAM or not source.is_file():
        return []
    status = source.stat()
    return [status.st_size, status.st_mtime_ns]
