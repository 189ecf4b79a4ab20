"""Outputs that grow batch by batch: standard output, or a file that an interrupted job can go on with."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file, mode_of, sync, writing
from llmcdsr_lite.score.histories import named_gzip

_SAVE_SECONDS = 2.0  # a killed job loses at most about so much work


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


@dataclass
class Progress:
    """How far a job is; as JSON, the content of ``OUTPUT.partial.json``.

    Parameters
    ----------
    job : str
        What tells the job from others.
    size : int
        Bytes of the output that are saved.
    digest : str
        Of the records behind it, see `HistoryBatch`.
    summary : ScoreSummary
    """

    job: str
    size: int = 0
    digest: str = ""
    summary: ScoreSummary = field(default_factory=ScoreSummary)


class StreamSink:
    """Standard output."""

    def __init__(self, job: str) -> None:
        self.progress = Progress(job)

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


class FileSink:
    """A file that grows beside its final name and can be continued from the last save.

    Parameters
    ----------
    output : Path
    job : str
        What tells the job from others that could have left an interrupted output.
    resume : bool
        Continue an interrupted output, if there is one.
    report : callable, optional
        Given a message when an interrupted output is left that can be continued.
    pack : callable, optional
        Given the grown file, when it is whole, and a path to write the output to, of another format.

    Raises
    ------
    DataError
        On entering its block: if another job is writing there, what there is to continue is damaged or of
        another job, or the output is there and nothing is left to continue.
    """

    def __init__(
        self,
        output: Path,
        job: str,
        resume: bool,
        report: Callable[[str], None] | None = None,
        pack: Callable[[Path, Path], None] | None = None,
    ) -> None:
        self._output = Path(os.path.realpath(output)) if output.is_symlink() else output
        self._partial = self._output.with_name(self._output.name + ".partial")
        self._state_path = self._output.with_name(self._output.name + ".partial.json")
        self._resume = resume
        self._report = report
        self._pack = pack
        self._has_written = False
        self._member: gzip.GzipFile | None = None  # of a gzip output, what was begun since the last save
        self.progress = Progress(job)
        self._saved = time.monotonic()

    def __enter__(self) -> FileSink:
        is_begun = self._partial.exists()
        if self._resume and self._output.exists() and not is_begun:
            raise DataError(
                f"{self._output}: is there, and no interrupted output to continue; "
                "without resume it is made anew"
            )
        self._file, self._lock = _open_alone(self._partial)
        try:
            if self._resume and is_begun and self._state_path.exists():
                self.progress = self._restore(self.progress.job)
            if self.progress.size == 0:
                self._state_path.unlink(missing_ok=True)  # of an older job, whose lines are gone now
            os.chmod(self._partial, mode_of(self._output))
            self._file.truncate(self.progress.size)
            self._file.seek(self.progress.size)
        except BaseException:
            self._file.close()
            _let_go(self._lock)
            raise
        return self

    def _restore(self, job: str) -> Progress:
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
            summary = ScoreSummary(**state["summary"])
            progress = Progress(state["job"], int(state["size"]), str(state["digest"]), summary)
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

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # On failure, what was saved last stays for resume: the counts may be ahead of the lines by now.
        whole = False
        try:
            if kind is None:
                if self.progress.size == 0:  # an output without a line is valid gzip, too
                    self.write(b"")
                self.save(force=True)
                if self._pack is not None:
                    with atomic_file(self._output) as temporary:
                        self._pack(self._partial, temporary)
                whole = True
        finally:
            for file in (self._member, self._file):  # nothing is left to write, or it failed anyway
                with suppress(OSError):
                    if file is not None:
                        file.close()
            try:
                self._leave(whole)
            finally:
                _let_go(self._lock)

    def _leave(self, whole: bool) -> None:
        """Give the output its name, or leave what can be continued."""
        if whole:
            if self._pack is None:
                os.replace(self._partial, self._output)
            else:
                self._partial.unlink()
            self._state_path.unlink()
            sync(self._output.parent)
        elif not self._state_path.exists():  # nothing was saved
            self._partial.unlink(missing_ok=True)
        elif self._has_written and self._report is not None:
            self._report(f"{self._partial} holds the part done; resume continues")

    def write(self, text: bytes) -> None:
        """Add lines."""
        self._has_written = True
        with writing(self._partial):
            if not named_gzip(self._output):
                self._file.write(text)
                return
            if self._member is None:
                self._member = gzip.GzipFile(fileobj=self._file, mode="wb", mtime=0)
            self._member.write(text)

    def save(self, *, force: bool) -> None:
        """Make what is written durable and note how far it reaches, if the last time is a while ago."""
        if not force and time.monotonic() - self._saved < _SAVE_SECONDS:
            return
        with writing(self._partial):
            if self._member is not None:
                self._member.close()  # the file can be cut here
                self._member = None
            self._file.flush()
            os.fsync(self._file.fileno())
        size = self._file.tell()
        with atomic_file(self._state_path) as temporary:
            temporary.write_text(json.dumps({**asdict(self.progress), "size": size}), encoding="utf-8")
        self.progress.size = size
        self._saved = time.monotonic()


def _open_alone(path: Path) -> tuple[IO[bytes], int | None]:
    """Open a file, kept or new, that no other job writes; a job that dies lets go of it.

    The lock is a descriptor of its own: it outlasts the closing of the file, until the file has its name.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        import fcntl
    except ImportError:  # Windows: two jobs at once are the user's affair
        return file, None
    lock = os.dup(file.fileno())
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = os.path.samestat(os.fstat(lock), path.stat())  # or the other job has just given it its name
    except (BlockingIOError, FileNotFoundError):
        alone = False
    except OSError:  # a file system without locks
        alone = True
    if not alone:
        file.close()
        os.close(lock)
        raise DataError(f"{path}: another job is writing it")
    return file, lock


def _let_go(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
