"""Scoring history files: batches inside, flat memory, input order kept, interrupted outputs continued.

Records come from `batches`, their answers from `lines` or `columns`, in this process or in several
(`workers`), and go to `output`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

from llmcdsr_lite.bundle.folder import CONFIG
from llmcdsr_lite.columnar import import_pyarrow
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score.batches import MAX_PROCESSES, HistoryBatch, ScoreSettings, read_batches
from llmcdsr_lite.score.columns import header, make_scorer, pack
from llmcdsr_lite.score.histories import STREAM, FileFormat, check_columnar, file_format, is_columnar
from llmcdsr_lite.score.lines import ScoredBatch
from llmcdsr_lite.score.output import FileSink, ScoreSummary, StreamSink
from llmcdsr_lite.score.workers import score_in_processes

__all__ = ["ScoreSettings", "ScoreSummary", "score_histories"]


def score_histories(
    recommender: Recommender,
    source: str | Path,
    output: str | Path,
    settings: ScoreSettings | None = None,
    *,
    resume: bool = False,
    processes: int = 1,
    report: Callable[[str], None] | None = None,
    progress: Callable[[ScoreSummary], None] | None = None,
) -> ScoreSummary:
    """Score a history file.

    While it runs, the output grows as ``OUTPUT.partial``, with ``OUTPUT.partial.json`` telling how far it
    is; at the end it takes its name, or a Parquet or Arrow file is made of it. If the job is interrupted,
    both stay, and `resume` continues.

    Parameters
    ----------
    recommender : Recommender
    source : str or Path
        History file, see `llmcdsr_lite.score.histories`; ``-`` is standard input.
    output : str or Path
        ``-`` is standard output.
    settings : ScoreSettings, optional
    resume : bool
        Continue an interrupted job with the same input and settings, if there is one. An output that is
        there and was not interrupted is refused: whether it is this job's cannot be told.
    processes : int
        Processes that score. With more than 1, this one reads and writes, and each of them loads the
        bundle of `recommender` once, with one thread; the output is the same.
    report : callable, optional
        Given a message for every bad record that is left out, and for an interrupted output that is left.
    progress : callable, optional
        Given the counts so far, after every batch.

    Returns
    -------
    ScoreSummary

    Raises
    ------
    DataError
        If the input cannot be read, a record is bad and `on_error` is "fail", the output cannot be written
        or another job is writing it, or there is nothing to continue, or only what is of another job.
    WorkerError
        If a scoring process dies or fails.
    UsageError
        If `processes` is out of range, or above 1 with a recommender that was not loaded from a folder,
        or standard output is to be resumed, or to be of a binary format.
    MissingDependencyError
        If a Parquet or Arrow file needs pyarrow, which is not installed.
    """
    settings = settings or ScoreSettings()
    source, output = Path(source), Path(output)
    _check(recommender, settings, processes)
    _check_output(source, output, resume)
    format = settings.output_format or file_format(output)
    _check_formats(source, output, settings.input_format or file_format(source), format)
    job = _fingerprint(recommender, source, settings)
    packed = partial(pack, format=format) if is_columnar(format) else None
    sink = StreamSink(job) if output == STREAM else FileSink(output, job, resume, report, packed)
    with sink:
        done = sink.progress
        if done.summary.records == 0:
            sink.write(header(settings, format))
        batches = read_batches(source, settings, recommender.domains, done.summary.records, done.digest)
        scored = _scored(batches, recommender, settings, format, processes)
        with closing(batches), closing(scored):  # now, not when they are collected
            for batch, answers in scored:
                if report is not None:
                    for message in batch.bad:
                        report(message)
                sink.write(answers.content)
                done.digest = batch.digest
                _count(done.summary, batch, answers)
                sink.save(force=False)
                if progress is not None:
                    progress(done.summary)
    return done.summary


def _scored(
    batches: Iterable[HistoryBatch],
    recommender: Recommender,
    settings: ScoreSettings,
    format: FileFormat,
    processes: int,
) -> Generator[tuple[HistoryBatch, ScoredBatch], None, None]:
    """Batches and their answers, scored here or in other processes."""
    if processes > 1:
        yield from score_in_processes(batches, recommender, settings, format, processes)
        return
    scorer = make_scorer(recommender, settings, format)
    for batch in batches:
        yield batch, scorer.score(batch.records)


def _count(summary: ScoreSummary, batch: HistoryBatch, answers: ScoredBatch) -> None:
    summary.records += len(batch.records) + len(batch.bad)
    summary.users += len(batch.records)
    summary.bad += len(batch.bad)
    summary.unknown_items += answers.unknown_items
    summary.fallbacks += answers.fallbacks


def _check(recommender: Recommender, settings: ScoreSettings, processes: int) -> None:
    """Refuse what the recommender cannot do."""
    if not 1 <= processes <= MAX_PROCESSES:
        raise UsageError(f"processes must be from 1 to {MAX_PROCESSES}, found {processes}")
    if processes > 1 and recommender.bundle.folder is None:
        raise UsageError("processes: several need a recommender that was loaded from a folder")
    if settings.domain is not None:
        recommender.items.domain(settings.domain)


def _check_output(source: Path, output: Path, resume: bool) -> None:
    """Refuse at once what could not be, or should not be, replaced at the end."""
    if output == STREAM:
        if resume:
            raise UsageError("standard output cannot be resumed; name an output file")
        if sys.stdout is None:
            raise DataError("standard output is closed")
    elif output.exists() and not output.is_file():
        raise DataError(f"{output}: is not a regular file; name another, or - for standard output")
    elif output.exists() and source != STREAM and source.exists() and output.samefile(source):
        raise DataError(f"{output}: is the input; name another output file")


def _check_formats(source: Path, output: Path, input_format: FileFormat, output_format: FileFormat) -> None:
    """Refuse binary formats that are streams, or that pyarrow is missing for."""
    for path, format in ((source, input_format), (output, output_format)):
        check_columnar(path, format)
        if is_columnar(format):
            import_pyarrow(f"{path}: a file of the format {format!r}")


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
