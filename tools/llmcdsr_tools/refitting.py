"""Stage 8, `refit`: what was chosen on validation is trained again on all histories, for production.

The bundle of a run has not seen the newest interactions, which were held out to measure it. Refitted, a run
is trained anew with the same settings on all histories, for as many epochs as were best; the mix and what
makes new items' vectors stay as validation chose them, counts are those of all histories. Nothing is left to
measure the result on: the figures that it carries are those of the bundle that it replaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.bundle.folder import BUNDLE, Bundle, read_bundle, write_bundle
from llmcdsr_lite.bundle.saving import read_card
from llmcdsr_lite.errors import TrainingError, UsageError
from llmcdsr_lite.files import check_folder
from llmcdsr_lite.model.ensemble import Model
from llmcdsr_tools.checkpoint import load_members
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.export.onnx_graph import checked_onnx
from llmcdsr_tools.mix.counts import bundle_counts
from llmcdsr_tools.run_folder import (
    REFITTED,
    RunHeader,
    best_model,
    file_hash,
    member_folders,
    member_runs,
    models_sha256,
    read_run,
)
from llmcdsr_tools.train.members import quiet
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.starting_model import read_starting_model
from llmcdsr_tools.train.training import Observer
from llmcdsr_tools.train.training_run import train


def refit(
    bundle: str | Path,
    run: str | Path,
    output: str | Path,
    *,
    dataset: str | Path | None = None,
    work: str | Path | None = None,
    text_embeddings: str | Path | None = None,
    start_from: str | Path | None = None,
    overwrite: bool = False,
    threads: int = 1,
    observers: Callable[[int], Observer] = quiet,
) -> None:
    """Train a run again on all histories, held-out ones too, and write the bundle that has its model.

    Parameters
    ----------
    bundle : str or Path
        What `export` made of the run.
    run : str or Path
        Folder of the training run, or of its members. One with names or pre-trained items is refused.
    output : str or Path
        Folder of the bundle to write.
    dataset : str or Path, optional
        The run's data set, if it is not where it was.
    work : str or Path, optional
        Folder for the new training, ``refit`` in the run's by default; a call that was interrupted goes on
        there.
    text_embeddings, start_from : str or Path, optional
        What the run was started from.
    overwrite : bool
        Replace a bundle that is there; no other folder is, unless it is empty.
    threads : int
        See `train`.
    observers : callable
        Makes the observer of a member's training by its number, from 1; 0 is the only model.

    Raises
    ------
    TrainingError
        If the run cannot be trained so, what is given is not what it was started from, or the bundle is not
        the run's.
    DataError
        If the folder is there and must not be overwritten, or something cannot be read.
    """
    run, output = Path(run), Path(output)
    work = run / "refit" if work is None else Path(work)
    check_folder(output, BUNDLE, overwrite=overwrite)  # before anything takes long
    measured = read_bundle(Path(bundle))
    runs = member_runs(run)
    headers = [read_run(one, None if dataset is None else Path(dataset)) for one in runs]
    data = load_dataset(headers[0].dataset)
    _check_bundle(Path(bundle), measured, run, runs, data)
    numbers = range(1, len(runs) + 1)
    for number, one, header in zip(numbers, runs, headers, strict=True):
        _check_start(one, header, text_embeddings, start_from, (number, len(runs)))
    models = []
    several = len(runs) > 1
    epochs = measured.training["epochs"]
    for number, one, header, epoch in zip(numbers, runs, headers, epochs, strict=True):
        result = train(
            header.dataset,
            work / one.name if several else work,
            TrainSettings(**{**header.settings, "n_epochs": epoch}),
            text_embeddings=text_embeddings,
            teachers=_teachers(one, header),
            start_from=start_from,
            member=(number, len(runs)),
            whole=True,
            resume=True,
            threads=threads,
            observer=observers(number if several else 0),
        )
        models.append(best_model(result.run))
    parameters, _ = load_members(models)
    parameters.item_embedding[0] = 0  # padding: never trained, never read
    _write(measured, parameters, data.whole(), headers[0], output, overwrite=overwrite)


def _check_start(
    run: Path,
    header: RunHeader,
    text_embeddings: str | Path | None,
    start_from: str | Path | None,
    member: tuple[int, int],
) -> None:
    """Refuse a run that cannot be started again, or to start it from something else."""
    if header.names_sha256 or header.settings["pretrained_items"]:
        raise TrainingError(f"{run}: was trained with names or pre-trained items, and cannot be refitted")
    text = None if text_embeddings is None else file_hash(Path(text_embeddings))
    start = None if start_from is None else read_starting_model(Path(start_from), *member).sha256
    for what, given, before in (
        ("text embeddings", text, header.text_embeddings_sha256),
        ("model to start from", start, header.start_from_sha256),
    ):
        if given != before:
            state = "started without" if before is None else "started from others; name those"
            raise TrainingError(f"{run}: {what}: the run {state}")
    teachers = _teachers(run, header)
    if header.teacher_sha256 and (not teachers or models_sha256(teachers) != header.teacher_sha256):
        raise TrainingError(f"{run}: the members that it has learned from are not those in its folder")


def _teachers(run: Path, header: RunHeader) -> list[Path]:
    """Folders of the members that a distilled run has learned from."""
    return member_folders(run) if header.teacher_sha256 else []


def _check_bundle(path: Path, bundle: Bundle, run: Path, runs: list[Path], data: Dataset) -> None:
    """Refuse a bundle that was not made of the run, or has changed since."""
    training = bundle.training
    if REFITTED in training:
        raise UsageError(f"{path}: is refitted already; give the bundle that it was made of")
    if list(bundle.catalogue.ids) != list(data.catalogue.ids):
        raise TrainingError(f"{path}: its items are not those of the data set of {run}")
    parameters, _ = load_members([best_model(one, training["best_for"]) for one in runs])
    same = parameters.item_embedding.shape == bundle.item_vectors.shape and np.array_equal(
        parameters.item_embedding[1:], bundle.item_vectors[1:]
    )
    if not same:
        raise TrainingError(f"{path}: is not the bundle of {run}, its item vectors are others")


def _write(
    measured: Bundle, parameters: Model, data: Dataset, header: RunHeader, output: Path, *, overwrite: bool
) -> None:
    training: dict[str, Any] = {
        **measured.training,
        REFITTED: {
            "histories": len(data.train),
            "interactions": len(data.train.rows),
            "dataset_sha256": header.dataset_sha256,
        },
    }
    bundle = replace(
        measured,
        parameters=parameters,
        item_counts=np.bincount(data.train.rows, minlength=len(data.catalogue) + 1),
        next_counts=None if measured.next_counts is None else bundle_counts(data),
        training=training,
        index=None,  # of the vectors before
    )
    card = read_card(measured).replace("\n## Metrics\n", f"\n{_section(data)}\n## Metrics\n", 1)
    onnx_model = checked_onnx(parameters, data)
    write_bundle(bundle, output, onnx_model=onnx_model, model_card=card, overwrite=overwrite)


def _section(data: Dataset) -> str:
    return f"""## Refitted

The model was trained again on all {len(data.train):,} histories, {len(data.train.rows):,} interactions, those
of validation and test included, with the settings and for the epochs that are named above. The figures below
are those of the model before, which had not seen what it was measured on.
"""
