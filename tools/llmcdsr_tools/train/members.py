"""Several runs of one recipe that differ in their seed: the members of an ensemble.

Each is an ordinary run in a folder of its own, ``member-1``, ``member-2``, ... of the run's folder, with a
checkpoint of its own, so that what was stopped goes on to the same bytes. Distilled, one more run learns from
all of them (`optimization.soft_labels`); it is in the run's folder itself, so that the run is that one model.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from llmcdsr_lite.errors import SettingsError
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.training import Observer
from llmcdsr_tools.train.training_run import TrainResult, train


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
    distill: bool = False,
) -> list[TrainResult]:
    """Train members with the seeds ``seed``, ``seed + 1``, ..., and distil them if that is asked for.

    Parameters
    ----------
    dataset, run, settings, text_embeddings, start_from, resume
        As for `train`; each member starts from the one of its number of `start_from`.
    members : int
    threads : int
        With more than one, so many members are trained at a time, each in a process of its own.
    observers : callable
        Makes the observer of a member, by its number from 1; with `threads` it is sent to that process. The
        student's number is 0.
    distill : bool
        Train one more model, the student, with the seed ``seed``: the members are its teachers.

    Returns
    -------
    list of TrainResult
        Of the members; then of the student, if there is one.

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
    if distill and start_from is not None:
        raise SettingsError("distilling begins anew: give start_from or distill, not both")
    make = partial(_member, dataset, run, settings, text_embeddings, start_from, members, resume, observers)
    numbers = range(1, members + 1)
    if min(threads, members) == 1:
        results = [make(number) for number in numbers]
    else:
        results = _train_parallel(make, numbers, min(threads, members))
    if distill:
        student = train(
            dataset,
            run,
            settings,
            text_embeddings=text_embeddings,
            teachers=[result.run for result in results],
            resume=resume,
            threads=threads,
            observer=observers(0),
        )
        results.append(student)
    return results


def _train_parallel(
    make: Callable[[int], TrainResult], numbers: range, n_processes: int
) -> list[TrainResult]:
    """Make the members of those numbers, so many at a time, each in a process of its own."""
    context = multiprocessing.get_context("spawn")  # a fork would share the state of BLAS
    with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
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
