from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.errors import TrainingError
from llmcdsr_tools.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint, save_model
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.run_folder import EpochMetrics, read_metrics
from llmcdsr_tools.train.training import Observer
from llmcdsr_tools.train.training_run import TrainResult, train

BEST = ("best.npz", "best_1.npz", "best_2.npz")


def assert_same_end(run: Path, other: Path) -> None:
    """The same bytes in all files but for the seconds of metrics.jsonl."""
    for name in (*BEST, "checkpoint.npz", "curves.svg"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert without_seconds(read_metrics(run)) == without_seconds(read_metrics(other))
    assert not any(math.isnan(e.seconds) for e in read_metrics(run))


def without_seconds(epochs: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    return [replace(e, seconds=0.0) for e in epochs]


class Interrupt(Observer):
    """Stop as Ctrl-C does, at a step of an epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at = (epoch, step)

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        if (epoch, step) == self.at:
            raise KeyboardInterrupt


def test_the_same_seed_gives_the_same_bytes(small_world: Any, small_run: TrainResult, tmp_path: Path) -> None:
    again = train(small_world.folder, tmp_path / "again", small_world.settings)
    assert_same_end(again.run, small_run.run)
    assert without_seconds(again.epochs) == without_seconds(small_run.epochs)
    other = train(small_world.folder, tmp_path / "other", replace(small_world.settings, n_epochs=1, seed=1))
    assert other.epochs[0].loss != small_run.epochs[0].loss


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 3), (4, 10)])
def test_ctrl_c_keeps_the_last_full_epoch(
    small_world: Any, small_run: TrainResult, tmp_path: Path, epoch: int, step: int
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(small_world.folder, run, small_world.settings, observer=Interrupt(epoch, step))
    if epoch == 1:
        assert not (run / "checkpoint.npz").exists()
    else:
        kept = load_checkpoint(run / "checkpoint.npz")
        assert len(kept.description["epochs"]) == epoch - 1
    resumed = train(small_world.folder, run, small_world.settings, resume=True)
    assert without_seconds(resumed.epochs) == without_seconds(small_run.epochs)
    assert (resumed.best_epoch, resumed.best_merit) == (small_run.best_epoch, small_run.best_merit)
    assert_same_end(run, small_run.run)


def test_averaged_weights_resume_to_the_same_bytes(small_world: Any, tmp_path: Path) -> None:
    settings = replace(
        small_world.settings,
        loss="sampled-softmax",
        average_epochs=1.25,
        windows=True,
        max_length=3,
        n_epochs=3,
    )
    whole = train(small_world.folder, tmp_path / "whole", settings)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(small_world.folder, run, settings, observer=Interrupt(3, 2))
    train(small_world.folder, run, settings, resume=True, threads=2)  # nothing depends on the threads
    assert_same_end(run, whole.run)
    last = load_checkpoint(run / "checkpoint.npz").arrays
    assert np.abs(last["item_average"] - last["item_embedding"])[1:].max() > 1e-4


@pytest.fixture(scope="module")
def two_epochs(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two_epochs") / "run"
    return train(small_world.folder, run, replace(small_world.settings, n_epochs=2)).run


@pytest.mark.parametrize("after", range(11))
def test_a_stop_before_any_write_is_made_good(
    small_world: Any, two_epochs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Stop where the next file was to take its name: once for each file of the first epochs."""
    settings = replace(small_world.settings, n_epochs=2)
    replace_file = os.replace
    left = after

    def stop(source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace_file(source, target)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            train(small_world.folder, run, settings)
    kept = read_metrics(run)[:1] if (run / "checkpoint.npz").exists() else []
    once = replace(settings, n_epochs=1)
    train(small_world.folder, run, once, resume=True)
    assert load_model(run / "best.npz")[1]["epoch"] <= len(read_metrics(run))
    resumed = train(small_world.folder, run, settings, resume=True)
    assert list(resumed.epochs[: len(kept)]) == kept  # with their seconds
    assert_same_end(run, two_epochs)
    assert not [p.name for p in run.iterdir() if p.name.startswith(".")]


SCRIPT = """
import sys
from pathlib import Path
from llmcdsr_tools.train.training_run import train
from llmcdsr_tools.train.recipes import TrainSettings
settings = TrainSettings(**eval(sys.argv[3]))
train(Path(sys.argv[1]), Path(sys.argv[2]), settings, resume=True)
"""


@pytest.mark.slow
def test_sigkill_at_a_random_moment(small_world: Any, tmp_path: Path) -> None:
    settings = replace(small_world.settings, n_epochs=12, patience=12)
    expected = train(small_world.folder, tmp_path / "expected", settings)
    run = tmp_path / "run"
    arguments = [sys.executable, "-c", SCRIPT, str(small_world.folder), str(run), repr(asdict(settings))]
    for _ in range(2):
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while not (run / "run.json").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        delay = random.SystemRandom().uniform(0, 1.2)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
        assert errors == b"", f"killed after {delay} s"
    resumed = train(small_world.folder, run, settings, resume=True)
    assert without_seconds(resumed.epochs) == without_seconds(expected.epochs)
    assert_same_end(run, expected.run)


def test_more_epochs_are_as_if_asked_for_at_once(
    small_world: Any, small_run: TrainResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(small_world.folder, run, replace(small_world.settings, n_epochs=2))
    train(small_world.folder, run, small_world.settings, resume=True)
    assert_same_end(run, small_run.run)
    done = train(small_world.folder, run, small_world.settings, resume=True)  # nothing left to do
    assert len(done.epochs) == 4
    assert_same_end(run, small_run.run)


def test_what_does_not_fit_the_run_is_refused(
    small_world: Any, small_run: TrainResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run.run, run)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    folder, settings = small_world.folder, small_world.settings
    with pytest.raises(TrainingError, match="holds a run already; resume it, or choose another folder"):
        train(folder, run, settings)
    with pytest.raises(TrainingError, match=r"settings differ .*learning_rate was 0.01 and is now 0.02"):
        train(folder, run, replace(settings, learning_rate=0.02), resume=True)
    np.save(tmp_path / "text.npy", np.ones((66, 4)))
    with pytest.raises(TrainingError, match="other text embeddings, or none"):
        train(folder, run, settings, text_embeddings=tmp_path / "text.npy", resume=True)
    other = tmp_path / "other"
    save_dataset(replace(small_world.data, train=small_world.data.valid), other)
    with pytest.raises(TrainingError, match="started with another data set"):
        train(other, run, settings, resume=True)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_best_models_that_are_not_the_checkpoints(small_world: Any, tmp_path: Path) -> None:
    settings, run = replace(small_world.settings, average_epochs=0.0), tmp_path / "run"
    expected = train(small_world.folder, tmp_path / "expected", settings).run
    train(small_world.folder, run, replace(settings, n_epochs=2))
    assert load_model(run / "best.npz")[1]["epoch"] == 2  # the checkpoint has its parameters
    (run / "best.npz").unlink()
    save_model(run / "best_1.npz", load_model(run / "best_2.npz")[0], {"epoch": 3})
    train(small_world.folder, run, settings, resume=True)
    assert_same_end(run, expected)
    # nothing moves: the first epoch is the best
    longer = replace(settings, n_epochs=8, learning_rate=1e-12)
    train(small_world.folder, tmp_path / "still", longer)
    message = r"best_1\.npz: no such file, the checkpoint's best is of epoch 1: the run cannot go on"
    (tmp_path / "still" / "best_1.npz").unlink()
    with pytest.raises(TrainingError, match=message):
        train(small_world.folder, tmp_path / "still", longer, resume=True)
    save_model(tmp_path / "still" / "best_1.npz", load_model(run / "best.npz")[0], {"epoch": 3})
    with pytest.raises(
        TrainingError, match=r"best_1\.npz: is of epoch 3, the checkpoint's best is of epoch 1"
    ):
        train(small_world.folder, tmp_path / "still", longer, resume=True)


def test_a_run_without_its_checkpoint_does_not_start_over(
    small_world: Any, small_run: TrainResult, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(small_run.run, tmp_path / "run"))
    (run / "checkpoint.npz").unlink()
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    message = r"checkpoint\.npz: no such file, though there is best\.npz: the run cannot go on"
    with pytest.raises(TrainingError, match=message):
        train(small_world.folder, run, small_world.settings, resume=True)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_seconds_that_are_lost_are_nan(small_world: Any, small_run: TrainResult, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run.run, tmp_path / "run"))
    (run / "metrics.jsonl").write_text("{")
    done = train(small_world.folder, run, small_world.settings, resume=True)
    assert without_seconds(done.epochs) == without_seconds(small_run.epochs)
    assert all(math.isnan(e.seconds) for e in read_metrics(run))


def test_a_damaged_checkpoint_is_refused(small_world: Any, small_run: TrainResult, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run.run, run)
    path = run / "checkpoint.npz"
    settings = replace(small_world.settings, n_epochs=5)
    good = load_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"checkpoint\.npz: damaged"):
        train(small_world.folder, run, settings, resume=True)
    without = {k: v for k, v in good.arrays.items() if k != "item_first"}
    whole = {**good.arrays, "dense": good.arrays["dense"].astype(np.int64)}
    transposed = {**good.arrays, "item_embedding": good.arrays["item_embedding"].T}
    for arrays, description in (
        (without, good.description),
        (transposed, good.description),
        (whole, good.description),
        (good.arrays, {}),
        (good.arrays, {**good.description, "stopping": {"worst": 1}}),
    ):
        save_checkpoint(path, Checkpoint(arrays, description))
        with pytest.raises(TrainingError, match=r"checkpoint\.npz: does not fit this run"):
            train(small_world.folder, run, settings, resume=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_checkpoint_before_it_is_kept(
    small_world: Any, small_run: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoil(Observer):
        def epoch(self, metrics: EpochMetrics, improved: list[str]) -> None:
            if metrics.epoch == 2:
                monkeypatch.setattr("llmcdsr_tools.train.objectives.sampled_softmax", spoiled)

    from llmcdsr_tools.optimization import losses

    whole = losses.sampled_softmax

    def spoiled(*arguments: Any) -> losses.LossGradients:
        return replace(whole(*arguments), loss=float("nan"))

    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"epoch 3, step 1: .* the checkpoint of epoch 2 is kept"):
        train(small_world.folder, run, small_world.settings, observer=Spoil())
    monkeypatch.undo()
    train(small_world.folder, run, small_world.settings, resume=True)
    assert_same_end(run, small_run.run)
