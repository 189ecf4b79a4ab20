"""Processes that score batches, each with a bundle of its own.

A worker is a new interpreter, not a fork: its libraries start with one thread each, and no lock of this
process, perhaps held by a thread that a fork leaves behind, comes with it. It reads batches from its standard
input and answers on its standard output, JSON in frames that begin with their length. When this process is
gone, however it went, its input ends, and so does the worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import IO, Any

from llmcdsr_lite import errors
from llmcdsr_lite.errors import BundleError, LlmcdsrError, WorkerError
from llmcdsr_lite.histories import FileFormat, HistoryRecord
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score.batches import HistoryBatch
from llmcdsr_lite.score.lines import LineScorer, ScoredLines
from llmcdsr_lite.score.settings import ScoreSettings

BatchScorer = Callable[[Iterable[HistoryBatch]], Iterator[tuple[HistoryBatch, ScoredLines]]]

_IN_FLIGHT = 2  # batches a worker: one that it scores, one ready for it
_LONGEST_MESSAGE = 4000  # characters
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from llmcdsr_lite.score.workers import serve; serve()"
)


class Workers:
    """Scores batches in several processes; use it in a ``with`` block, which ends them.

    Parameters
    ----------
    recommender : Recommender
        Loaded from a folder; each worker loads the same, with one thread.
    settings : ScoreSettings
    format : {"jsonl", "csv"}
        Of the output.
    processes : int
    """

    def __init__(
        self, recommender: Recommender, settings: ScoreSettings, format: FileFormat, processes: int
    ) -> None:
        self._setup = {
            "folder": str(recommender.bundle.folder),
            "hashes": dict(recommender.bundle.hashes),
            "backend": recommender.backend_name,
            "search": recommender.search_name,
            "settings": asdict(settings),
            "format": format,
        }
        self._processes = processes

    def __enter__(self) -> BatchScorer:
        self._workers: list[_Worker] = []
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        # A thread a worker does nothing but wait for it: a worker never waits for the main thread.
        self._threads = ThreadPoolExecutor(self._processes, "llmcdsr-score")
        try:
            for _ in range(self._processes):
                worker = _Worker(self._setup)
                self._workers.append(worker)
                self._idle.put(worker)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self.score

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            for worker in self._workers:
                worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def score(self, batches: Iterable[HistoryBatch]) -> Iterator[tuple[HistoryBatch, ScoredLines]]:
        """Score batches, a bounded number of them at a time.

        Parameters
        ----------
        batches : iterable of HistoryBatch
            Where it fails, the batches before are answered first.

        Yields
        ------
        batch : HistoryBatch
            In the order of `batches`.
        lines : ScoredLines

        Raises
        ------
        WorkerError
            If a worker dies or fails.
        """
        waiting: deque[tuple[HistoryBatch, Future[ScoredLines]]] = deque()
        iterator = iter(batches)
        failure: Exception | None = None
        more = True
        while more or waiting:
            while more and len(waiting) < _IN_FLIGHT * self._processes:
                try:
                    batch = next(iterator, None)
                except Exception as error:
                    failure, batch = error, None
                if batch is None:
                    more = False
                else:
                    waiting.append((batch, self._threads.submit(self._score, batch.records)))
            if waiting:
                batch, future = waiting.popleft()
                yield batch, future.result()
        if failure is not None:
            raise failure

    def _score(self, records: list[HistoryRecord]) -> ScoredLines:
        worker = self._idle.get()  # there is one: threads are as many as workers
        try:
            return worker.score(records)
        finally:
            self._idle.put(worker)


class _Worker:
    """A process that scores, seen from outside."""

    def __init__(self, setup: dict[str, Any]) -> None:
        # A session of its own, so that Ctrl-C reaches this process alone, which then ends it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._setup: dict[str, Any] | None = setup

    def score(self, records: Sequence[HistoryRecord]) -> ScoredLines:
        with suppress(BrokenPipeError):  # what went wrong is told, or not, by the answer
            if self._setup is not None:
                _write_frame(self._requests, json.dumps(self._setup).encode())
                self._setup = None
            fields = [(r.line, r.user, r.history, r.domain) for r in records]
            _write_frame(self._requests, json.dumps(fields).encode())
        head, text = _read_frame(self._answers), _read_frame(self._answers)
        if head is None or text is None:
            raise WorkerError(f"a scoring process (pid {self._process.pid}) {self._end()}")
        answer = json.loads(head)
        if "error" in answer:
            _raise(answer["error"], answer["message"], text.decode())
        return ScoredLines(text, **answer)

    def _end(self) -> str:
        """How the process ended."""
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "does not answer"
        if status >= 0:
            return f"ended with exit status {status}"
        name = signal.Signals(-status).name
        memory = ", as systems do when memory is short: try fewer processes" if name == "SIGKILL" else ""
        return f"was killed by {name}{memory}"

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """End the input, and with it the process."""
        with suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()
        self._process.wait()


def _raise(kind: str, message: str, trace: str) -> None:
    """Raise what a worker met: an error of this package as it is, any other as a WorkerError."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, LlmcdsrError):
        raise found(message)
    error = WorkerError(f"a scoring process failed: {kind}{': ' * bool(message)}{message}")
    error.add_note(trace)
    raise error


def serve() -> None:
    """Score batches from standard input until it ends: what a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library may print must not get between the answers
    with suppress(BrokenPipeError), answers:
        try:
            _answer(sys.stdin.buffer, answers)
        except BrokenPipeError:
            raise
        except Exception as error:
            # Short enough for a pipe to take while its reader is still writing a batch.
            head = {"error": type(error).__name__, "message": str(error)[:_LONGEST_MESSAGE]}
            trace = traceback.format_exc()[-_LONGEST_MESSAGE:]
            _write_frame(answers, json.dumps(head).encode())
            _write_frame(answers, trace.encode(errors="replace"))


def _answer(requests: IO[bytes], answers: IO[bytes]) -> None:
    setup = _read_frame(requests)
    if setup is None:
        return
    told = json.loads(setup)
    recommender = Recommender.load(told["folder"], backend=told["backend"], search=told["search"])
    if recommender.bundle.hashes != told["hashes"]:
        raise BundleError(f"{told['folder']}: is no longer the bundle that the job began with; start over")
    lines = LineScorer(recommender, ScoreSettings(**told["settings"]), told["format"])
    while (request := _read_frame(requests)) is not None:
        scored = lines.score([HistoryRecord(*fields) for fields in json.loads(request)])
        head = {"unknown_items": scored.unknown_items, "fallbacks": scored.fallbacks}
        _write_frame(answers, json.dumps(head).encode())
        _write_frame(answers, scored.text)


def _write_frame(file: IO[bytes], content: bytes) -> None:
    file.write(len(content).to_bytes(8, "big"))
    file.write(content)
    file.flush()


def _read_frame(file: IO[bytes]) -> bytes | None:
    """Content of the next frame; None if there is none, or not all of it."""
    head = file.read(8)
    size = int.from_bytes(head, "big")
    content = file.read(size) if len(head) == 8 else b""
    return content if len(head) == 8 and len(content) == size else None
