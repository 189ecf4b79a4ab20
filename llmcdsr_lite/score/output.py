"""Outputs that grow line by line: standard output, or a file that an interrupted job can be continued in."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.histories import STREAM
from llmcdsr_lite.score.settings import ScoreSummary

_SAVE_SECONDS = 2.0  # a killed job loses at most about so much work


class Sink(Protocol):
    """Where lines go; `summary` counts what it holds."""

    summary: ScoreSummary

    def __enter__(self) -> Any: ...
    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...
    def write(self, text: bytes) -> None:
        """Add lines."""

    def save(self, *, force: bool) -> None:
        """Let what was written be seen, or continued from."""


def open_sink(output: Path, job: str, *, resume: bool) -> Sink:
    """Output of a job.

    Parameters
    ----------
    output : Path
        ``-`` is standard output.
    job : str
        What tells the job from others that could have left an interrupted output.
    resume : bool
        Continue an interrupted output, if there is one.

    Raises
    ------
    DataError
        If what there is to continue is damaged or of another job.
    """
    return StreamSink() if output == STREAM else FileSink(output, job, resume)


class StreamSink:
    """Standard output."""

    def __init__(self) -> None:
        self.summary = ScoreSummary()

    def __enter__(self) -> StreamSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            sys.stdout.buffer.flush()

    def write(self, text: bytes) -> None:
        """Add lines."""
        sys.stdout.buffer.write(text)

    def save(self, *, force: bool) -> None:
        """Let a reader have what was written."""
        sys.stdout.buffer.flush()


@dataclass
class _Progress:
    """Content of ``OUTPUT.partial.json``."""

    job: str
    size: int = 0
    summary: ScoreSummary = field(default_factory=ScoreSummary)


class FileSink:
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

    def __enter__(self) -> FileSink:
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

    def write(self, text: bytes) -> None:
        """Add lines."""
        self._member.write(text)

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
