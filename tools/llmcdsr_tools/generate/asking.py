"""Asking a language model for many users at a time: threads that ask, each writing its answer at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmcdsr_lite.errors import GenerationError
from llmcdsr_tools.cold_histories import ColdHistory
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.generate.answers import Answer, AnswersFile
from llmcdsr_tools.generate.generate_settings import OutputFormat, OutputFormatChoice
from llmcdsr_tools.generate.language_model import FormatRefusedError, LanguageModel, RequestFailedError
from llmcdsr_tools.generate.prompts import PromptBuilder, user_seed

MAX_FAILURES = 5  # requests in a row that fail at every try: the server is down, or refuses them all

_PATIENCE = 1.0  # seconds that requests in flight get to end by themselves


@dataclass(frozen=True)
class Failure:
    """A user that has no answer, and why."""

    user: str
    domain: str
    reason: str


@dataclass(frozen=True)
class Wanted:
    """Whom a call of `generate` would ask, and how.

    Parameters
    ----------
    dataset : Dataset
    histories : list of ColdHistory
        In the order of asking, drawn by seed: the first n are a sample of all.
    builder : PromptBuilder
    n_without_title : int
    """

    dataset: Dataset
    histories: list[ColdHistory]
    builder: PromptBuilder
    n_without_title: int

    def key(self, history: ColdHistory) -> tuple[str, str]:
        """User and name of the domain that names are wanted of."""
        return history.user, self.dataset.catalogue.domains[history.domain].name


class Asking:
    """Threads that ask, and keep an answer before they ask for the next user."""

    def __init__(
        self,
        model: LanguageModel,
        wanted: Wanted,
        output_format: OutputFormatChoice,
        concurrency: int,
        stopped: threading.Event,
    ) -> None:
        self._model, self._wanted, self._stopped = model, wanted, stopped
        self._concurrency, self._writing = concurrency, threading.Lock()
        self._hopeless = threading.Event()  # no further request can succeed
        self._may_change_format = output_format == "auto"
        json_wanted = output_format == "json" or (
            output_format == "auto" and wanted.builder.endpoint == "chat"
        )
        self._format: OutputFormat = "json" if json_wanted else "list"

    def ask_all(
        self, todo: Sequence[ColdHistory], file: AnswersFile, progress: Callable[[int], object]
    ) -> tuple[Failure, ...]:
        """Append an answer for each; those that failed."""
        waiting: queue.SimpleQueue[ColdHistory] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[ColdHistory, BaseException | None]] = queue.SimpleQueue()
        for history in todo:
            waiting.put(history)
        failures: list[Failure] = []
        in_a_row = 0
        # daemons: whoever stops this process does not wait for a slow server
        threads = [
            threading.Thread(target=self._work, args=(waiting, file, done), daemon=True)
            for _ in range(min(self._concurrency, len(todo)))
        ]
        for thread in threads:
            thread.start()
        try:
            for n in range(1, len(todo) + 1):
                history, outcome = done.get()
                if outcome is None:
                    in_a_row = 0
                elif isinstance(outcome, RequestFailedError):
                    failures.append(Failure(*self._wanted.key(history), str(outcome)))
                    in_a_row += 1
                    if in_a_row == MAX_FAILURES:
                        raise GenerationError(
                            f"{in_a_row} requests in a row failed, so this ends here; what was answered is "
                            f"kept in {file.path}. The last: {outcome}"
                        )
                else:
                    raise outcome
                progress(n)
        finally:
            with self._writing:  # from here on, nobody writes
                self._stopped.set()
            deadline = time.monotonic() + _PATIENCE
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        return tuple(failures)

    def _work(
        self,
        waiting: queue.SimpleQueue[ColdHistory],
        file: AnswersFile,
        done: queue.SimpleQueue[tuple[ColdHistory, BaseException | None]],
    ) -> None:
        while not (self._stopped.is_set() or self._hopeless.is_set()):
            try:
                history = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                answer = self._ask(history)
                with self._writing:
                    if not self._stopped.is_set():
                        file.append(answer)
                done.put((history, None))
            except BaseException as error:  # raised again by the caller's thread
                if not isinstance(error, RequestFailedError):
                    self._hopeless.set()  # at once: the caller's thread may take a while to see it
                done.put((history, error))

    def _ask(self, history: ColdHistory) -> Answer:
        builder = self._wanted.builder
        seed = user_seed(builder.settings.seed, history) >> 1  # 31 bits: what every server takes
        output_format = self._format
        try:
            reply = self._model.ask(builder.build(history, output_format), output_format, seed)
        except FormatRefusedError:
            if not self._may_change_format:
                raise
            output_format = self._format = "list"  # for all that follow, too
            reply = self._model.ask(builder.build(history, output_format), output_format, seed)
        user, domain = self._wanted.key(history)
        return Answer(
            user,
            domain,
            reply.text,
            output_format,
            reply.cut_off,
            reply.tokens_in,
            reply.tokens_out,
            reply.seconds,
        )
