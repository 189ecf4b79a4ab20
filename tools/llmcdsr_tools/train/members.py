"""Several runs of one recipe that differ in their seed: the members of an ensemble.

Each is an ordinary run in a folder of its own, ``member-1``, ``member-2``, ... of the run's folder, with a
checkpoint of its own, so that what was stopped goes on to the same bytes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from llmcdsr_lite.errors import SettingsError
from llmcdsr_tools.train.settings import TrainSettings
from llmcdsr_tools.train.stage import TrainResult, train
from llmcdsr_tools.train.training import Observer


def quiet(member: int) -> Observer:
    """An observer that says nothing."""
    return Observer()


def train_members(
    dataset: str | Path,
    run: str | Path,
    settings: TrainSettings,
    members: int,
    *,
    text_embeddings: str | Path | None = None,
    start_from: str | Path | None = None,
    resume: bool = False,
    threads: int = 1,
    observers: Callable[[int], Observer] = quiet,
) -> list[TrainResult]:
    """Train members with the seeds ``seed``, ``seed + 1``, ...

    Parameters
    ----------
    dataset, run, settings, text_embeddings, start_from, resume
        As for `train`; each member starts from the one of its number of `start_from`.
    members : int
    threads : int
        With more than one, so many members are trained at a time, each in a process of its own.
    observers : callable
        Makes the observer of a member, by its number from 1; with `threads` it is sent to that process.

    Returns
    -------
    list of TrainResult

    Raises
    ------
    DataError, TrainingError
        As `train`; the members that are done stay.
    """
    dataset = Path(dataset)
    run = Path(run)
    text_embeddings = None if text_embeddings is None else Path(text_embeddings)
    start_from = None if start_from is None else Path(start_from)
    if members < 1:
        raise SettingsError(f"members must be at least 1, found {members}")
    make = partial(_member, dataset, run, settings, text_embeddings, start_from, members, resume, observers)
    numbers = range(1, members + 1)
    if min(threads, members) == 1:
        return [make(number) for number in numbers]
    context = multiprocessing.get_context("spawn")  # a fork would share the state of BLAS
    with ProcessPoolExecutor(min(threads, members), mp_context=context) as pool:
        try:
            return list(pool.map(make, numbers))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # what a member has finished is in its checkpoint
            raise


def _member(
    dataset: Path,
    run: Path,
    settings: TrainSettings,
    text_embeddings: Path | None,
    start_from: Path | None,
    members: int,
    resume: bool,
    observers: Callable[[int], Observer],
    number: int,
) -> TrainResult:
    return train(
        dataset,
        run / f"member-{number}",
        replace(settings, seed=settings.seed + number - 1),
        text_embeddings=text_embeddings,
        start_from=start_from,
        member=(number, members),
        resume=resume,
        observer=observers(number),
    )
