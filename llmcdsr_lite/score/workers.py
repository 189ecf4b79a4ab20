"""Processes that score batches, each with a bundle of its own.

`concurrent.futures` hands out the batches and keeps their order: a thread waits for each process. Its own
ProcessPoolExecutor does not tell how a process died, runs the caller's script again in each process, and
leaves processes behind when the caller is killed.

A worker is a new interpreter, not a fork: its libraries start with one thread each, and it inherits no lock
that a thread of the caller holds. It reads a batch as a line of JSON and answers with another line, and the
bytes of the output behind it. When the caller is gone, however it went, the worker's input ends, and so does
the worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple
from functools import partial
from itertools import islice
from typing import IO, Any

from llmcdsr_lite import errors
from llmcdsr_lite.errors import BundleError, LlmcdsrError, WorkerError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score.batches import HistoryBatch, ScoreSettings
from llmcdsr_lite.score.columns import make_scorer
from llmcdsr_lite.score.histories import FileFormat, HistoryRecord
from llmcdsr_lite.score.lines import ScoredBatch

_IN_FLIGHT = 2  # batches a worker: one that it scores, one ready for it
_LONGEST_MESSAGE = 4000  # characters
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_START = (
    "import json, sys; sys.path[:], setup = json.loads(sys.argv[1]); "
    "from llmcdsr_lite.score.workers import serve; serve(*setup)"
)

_Scored = tuple[HistoryBatch, ScoredBatch]


def score_in_processes(
    batches: Iterable[HistoryBatch],
    recommender: Recommender,
    settings: ScoreSettings,
    format: FileFormat,
    processes: int,
) -> Iterator[_Scored]:
    """Score batches in several processes, a bounded number of batches at a time.

    Parameters
    ----------
    batches : iterable of HistoryBatch
        If reading them fails, the batches before are answered first.
    recommender : Recommender
        Loaded from a folder; each process loads the same, with one thread.
    settings : ScoreSettings
    format : {"jsonl", "csv"}
        Of the output.
    processes : int
        They end with the generator; close it if it is not read to its end.

    Yields
    ------
    batch : HistoryBatch
        In the order of `batches`.
    scored : ScoredBatch

    Raises
    ------
    WorkerError
        If a process dies or fails.
    BundleError
        If a process cannot load the bundle, or it is not that of `recommender` any more.
    """
    source = {
        "folder": str(recommender.bundle.folder),
        "backend": recommender.backend_name,
        "search": recommender.search_name,
    }
    setup = [source, dict(recommender.bundle.hashes), asdict(settings), format]
    workers: list[subprocess.Popen[bytes]] = []
    own = threading.local()  # worker of a thread

    def score(batch: HistoryBatch) -> _Scored:
        if not hasattr(own, "worker"):  # no more of them than there are batches
            own.worker = _start(setup)
            workers.append(own.worker)
        return batch, _ask(own.worker, batch.records)

    threads = ThreadPoolExecutor(processes, "llmcdsr-score")
    try:
        futures = _futures(batches, threads, score)
        waiting = deque(islice(futures, _IN_FLIGHT * processes))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(islice(futures, 1))
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            with suppress(BrokenPipeError), worker:  # its end closes the pipes and waits
                pass


def _futures(
    batches: Iterable[HistoryBatch], threads: ThreadPoolExecutor, score: Any
) -> Iterator[Future[_Scored]]:
    """Futures of the scored batches; where reading fails, the last one has the error."""
    try:
        yield from map(partial(threads.submit, score), batches)
    except Exception as error:
        failed: Future[_Scored] = Future()
        failed.set_exception(error)
        yield failed


def _start(setup: list[Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _START, json.dumps([sys.path, setup])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **_ONE_THREAD},
        start_new_session=True,  # Ctrl-C reaches the caller alone, which then ends it
    )


def _ask(worker: subprocess.Popen[bytes], records: list[HistoryRecord]) -> ScoredBatch:
    """Output for the records, from a worker that does nothing else now."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    with suppress(BrokenPipeError):  # the answer, or its absence, tells what went wrong
        _write_line(worker.stdin, list(map(astuple, records)))
    line = worker.stdout.readline()
    if not line.endswith(b"\n"):
        raise WorkerError(f"a scoring process (pid {worker.pid}) {_end(worker)}")
    answer = json.loads(line)
    if "error" in answer:
        error: Exception = getattr(errors, answer["error"])(answer["message"])
        error.add_note(answer["trace"])
        raise error
    content = worker.stdout.read(answer["size"])
    if len(content) < answer["size"]:
        raise WorkerError(f"a scoring process (pid {worker.pid}) {_end(worker)}")
    return ScoredBatch(content, answer["unknown_items"], answer["fallbacks"])


def _end(worker: subprocess.Popen[bytes]) -> str:
    """How a worker ended."""
    try:
        status = worker.wait(10)
    except subprocess.TimeoutExpired:
        return "does not answer"
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    memory = ", as systems do when memory is short: try fewer processes" if name == "SIGKILL" else ""
    return f"was killed by {name}{memory}"


def serve(
    source: dict[str, Any], hashes: dict[str, str], settings: dict[str, Any], format: FileFormat
) -> None:
    """Score batches from standard input until it ends: what a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library may print must not get between the answers
    with suppress(BrokenPipeError), answers:
        try:
            recommender = Recommender.load(**source)
            if recommender.bundle.hashes != hashes:
                folder = recommender.bundle.folder
                raise BundleError(f"{folder}: is no longer the bundle that the job began with; start over")
            scorer = make_scorer(recommender, ScoreSettings(**settings), format)
            for request in sys.stdin.buffer:
                scored = scorer.score([HistoryRecord(*fields) for fields in json.loads(request)])
                counts = {"unknown_items": scored.unknown_items, "fallbacks": scored.fallbacks}
                _write_line(answers, {"size": len(scored.content), **counts})
                answers.write(scored.content)
                answers.flush()
        except BrokenPipeError:
            raise
        except Exception as error:
            _write_line(answers, _described(error))


def _described(error: Exception) -> dict[str, str]:
    """An error for the caller: one of this package as it is, any other as a WorkerError.

    Short enough for a pipe to take while its reader is still writing a batch.
    """
    kind, message = type(error).__name__, str(error)[:_LONGEST_MESSAGE]
    if not isinstance(error, LlmcdsrError):
        message = f"a scoring process failed: {kind}{': ' * bool(message)}{message}"
        kind = "WorkerError"
    return {"error": kind, "message": message, "trace": traceback.format_exc()[-_LONGEST_MESSAGE:]}


def _write_line(file: IO[bytes], content: Any) -> None:
    file.write(json.dumps(content, ensure_ascii=False).encode(errors="replace") + b"\n")
    file.flush()
