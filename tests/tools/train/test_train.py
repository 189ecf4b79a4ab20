from __future__ import annotations

import json
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

from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_lite.reference.sasrec import RowGradient
from llmcdsr_tools.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint, save_model
from llmcdsr_tools.dataset import Dataset, Histories, save_dataset
from llmcdsr_tools.objectives import Loss
from llmcdsr_tools.optimizers import RowAdam
from llmcdsr_tools.run import EpochMetrics, read_metrics
from llmcdsr_tools.train import training
from llmcdsr_tools.train.settings import ItemUpdates
from llmcdsr_tools.train.stage import Observer, TrainResult, TrainSettings, train

BEST = ("best.npz", "best_a.npz", "best_b.npz")


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


def popularity_hr10(data: Dataset) -> list[float]:
    """HR@10 within the whole domain of ranking by training count, ties in its favour."""
    counts = np.bincount(data.train.rows, minlength=len(data.catalogue) + 1)
    hits: list[list[bool]] = [[], []]
    for history in data.valid:
        target = int(history[-1])
        domain = data.catalogue.domain_of_row(target)
        ahead = sum(int(counts[row]) > int(counts[target]) for row in range(domain.start, domain.stop))
        hits[data.catalogue.domains.index(domain)].append(ahead < 10)
    return [sum(h) / len(h) for h in hits]


def test_it_learns(small_world: Any, small_run: TrainResult) -> None:
    losses = [e.loss for e in small_run.epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.3
    last, popularity = small_run.epochs[-1].hr10, popularity_hr10(small_world.data)
    for model, baseline in zip(last, popularity, strict=True):
        assert model > baseline + 0.2
    assert sum(small_run.epochs[-1].ndcg10) / 2 > 0.5


@pytest.mark.parametrize("updates", ["deferred", "rows"])
def test_the_official_loss_learns_too(small_world: Any, tmp_path: Path, updates: ItemUpdates) -> None:
    settings = replace(small_world.settings, loss="bce", item_updates=updates, n_epochs=6)
    result = train(small_world.folder, tmp_path / "run", settings)
    popularity = sum(popularity_hr10(small_world.data)) / 2
    assert result.epochs[-1].loss < result.epochs[0].loss
    assert result.best_hr10 > popularity + 0.1


@pytest.mark.parametrize("loss", ["bce", "sampled-softmax"])
def test_deferred_updates_are_those_of_dense_adam(
    small_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    class DenseAdam(RowAdam):
        def step_rows(self, gradient: RowGradient) -> None:
            whole = np.zeros_like(self.values)
            whole[gradient.rows] = gradient.values
            self.step(whole)

    settings = replace(small_world.settings, loss=loss, n_epochs=2)
    for updates in ("deferred", "rows"):
        train(small_world.folder, tmp_path / updates, replace(settings, item_updates=updates))
    monkeypatch.setattr(training, "RowAdam", DenseAdam)
    train(small_world.folder, tmp_path / "dense", replace(settings, item_updates="rows"))
    deferred, rows, dense = (
        load_checkpoint(tmp_path / run / "checkpoint.npz").arrays["item_embedding"]
        for run in ("deferred", "rows", "dense")
    )
    assert abs(deferred - dense).max() < 1e-3 * abs(rows - dense).max()


def test_cold_sequences_join_the_others(small_world: Any, tmp_path: Path) -> None:
    steps = []

    class Steps(Observer):
        def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
            steps.append(n_steps)

    settings = replace(small_world.settings, cold_sequences=True, n_epochs=1)
    train(small_world.folder, tmp_path / "run", settings, observer=Steps())
    # every walk is of one domain first, then of the other: it has one cold form
    n_sequences = 2 * len(small_world.data.train)
    assert steps == [math.ceil(n_sequences / settings.batch_size)] * len(steps)


def test_what_a_run_leaves(small_run: TrainResult) -> None:
    files = {p.name for p in small_run.run.iterdir()}
    assert files == {"run.json", "checkpoint.npz", *BEST, "metrics.jsonl", "curves.svg"}
    lines = (small_run.run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        json.loads(json.dumps(asdict(e))) for e in small_run.epochs
    ]
    means = [sum(e.hr10) / 2 for e in small_run.epochs]
    assert small_run.best_hr10 == pytest.approx(max(means))
    assert small_run.best_epoch == means.index(max(means)) + 1
    for i, name in enumerate(BEST[1:]):
        values = [e.hr10[i] for e in small_run.epochs]
        _, description = load_model(small_run.run / name)
        assert description["epoch"] == values.index(max(values)) + 1
    assert not small_run.stopped_early


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
    assert (resumed.best_epoch, resumed.best_hr10) == (small_run.best_epoch, small_run.best_hr10)
    assert_same_end(run, small_run.run)


@pytest.mark.parametrize("after", range(11))
def test_a_stop_before_any_write_is_made_good(
    small_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Stop where the next file was to take its name: once for each file of the first epochs."""
    settings = replace(small_world.settings, n_epochs=2)
    expected = tmp_path / "expected"
    train(small_world.folder, expected, settings)
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
    assert_same_end(run, expected)
    assert not [p.name for p in run.iterdir() if p.name.startswith(".")]


SCRIPT = """
import sys
from pathlib import Path
from llmcdsr_tools.train.stage import TrainSettings, train
settings = TrainSettings(**eval(sys.argv[3]))
train(Path(sys.argv[1]), Path(sys.argv[2]), settings, resume=True)
"""


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


def test_best_models_that_are_not_the_checkpoints(
    small_world: Any, small_run: TrainResult, tmp_path: Path
) -> None:
    settings, run = small_world.settings, tmp_path / "run"
    train(small_world.folder, run, replace(settings, n_epochs=2))
    assert load_model(run / "best.npz")[1]["epoch"] == 2  # the checkpoint has its parameters
    (run / "best.npz").unlink()
    save_model(run / "best_a.npz", load_model(run / "best_b.npz")[0], {"epoch": 3})
    train(small_world.folder, run, settings, resume=True)
    assert_same_end(run, small_run.run)
    longer = replace(settings, n_epochs=8, learning_rate=1e-12)  # nothing moves: the first epoch is the best
    train(small_world.folder, tmp_path / "still", longer)
    message = r"best_a\.npz: no such file, the checkpoint's best is of epoch 1: the run cannot go on"
    (tmp_path / "still" / "best_a.npz").unlink()
    with pytest.raises(TrainingError, match=message):
        train(small_world.folder, tmp_path / "still", longer, resume=True)
    save_model(tmp_path / "still" / "best_a.npz", load_model(run / "best.npz")[0], {"epoch": 3})
    with pytest.raises(
        TrainingError, match=r"best_a\.npz: is of epoch 3, the checkpoint's best is of epoch 1"
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
def test_a_loss_that_is_not_finite_ends_training(small_world: Any, tmp_path: Path) -> None:
    settings = replace(small_world.settings, learning_rate=1e30)
    with pytest.raises(
        TrainingError, match=r"epoch 1, step \d+: the loss is (nan|inf).*lower learning rate"
    ) as e:
        train(small_world.folder, tmp_path / "run", settings)
    assert "checkpoint of epoch 0" not in str(e.value)
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_last_step_that_makes_the_model_not_finite_ends_training(small_world: Any, tmp_path: Path) -> None:
    """One step an epoch: its loss is of the model before it, and finite."""
    settings = replace(small_world.settings, n_epochs=1, batch_size=100_000, learning_rate=1e30)
    message = "epoch 1: the model is not finite after its last step; no epoch was finished"
    with pytest.raises(TrainingError, match=message):
        train(small_world.folder, tmp_path / "run", settings)
    assert not [p.name for p in (tmp_path / "run").glob("*.npz")]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_checkpoint_before_it_is_kept(
    small_world: Any, small_run: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoil(Observer):
        def epoch(self, metrics: EpochMetrics, improved: list[str]) -> None:
            if metrics.epoch == 2:
                monkeypatch.setattr("llmcdsr_tools.objectives.sampled_softmax", spoiled)

    from llmcdsr_lite.reference import losses

    whole = losses.sampled_softmax

    def spoiled(*arguments: Any) -> losses.LossGradients:
        return replace(whole(*arguments), loss=float("nan"))

    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"epoch 3, step 1: .* the checkpoint of epoch 2 is kept"):
        train(small_world.folder, run, small_world.settings, observer=Spoil())
    monkeypatch.undo()
    train(small_world.folder, run, small_world.settings, resume=True)
    assert_same_end(run, small_run.run)


def test_training_stops_when_nothing_improves(small_world: Any, tmp_path: Path) -> None:
    settings = replace(small_world.settings, learning_rate=1e-12, n_epochs=20, patience=3)
    result = train(small_world.folder, tmp_path / "run", settings)  # nothing moves
    assert result.stopped_early
    assert result.best_epoch == 1
    assert len(result.epochs) == 4
    again = train(small_world.folder, tmp_path / "run", settings, resume=True)
    assert again.stopped_early
    assert len(again.epochs) == 4


def test_items_start_from_text(small_world: Any, tmp_path: Path) -> None:
    text = np.random.default_rng(0).normal(size=(66, 20)).astype(np.float32)
    np.save(tmp_path / "text.npy", text)
    settings = replace(small_world.settings, n_epochs=1, learning_rate=1e-9, text_deviation=0.2)
    train(small_world.folder, tmp_path / "run", settings, text_embeddings=tmp_path / "text.npy")
    model, _ = load_model(tmp_path / "run" / "best.npz")
    centred = text - text.mean(axis=0)
    _, _, directions = np.linalg.svd(centred.astype(np.float64))
    expected = centred @ directions[:16].T
    expected *= 0.2 / np.sqrt((expected**2).mean())
    np.testing.assert_allclose(np.abs(model.item_embedding[1:]), np.abs(expected), atol=1e-4)


def test_the_observer_is_told_every_step(small_world: Any, tmp_path: Path) -> None:
    class Record(Observer):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
            self.seen.append((epoch, step, n_steps))
            self.losses = [*getattr(self, "losses", []), loss]

        def epoch(self, metrics: EpochMetrics, improved: list[str]) -> None:
            self.seen.append((metrics.epoch, improved))
            assert (tmp_path / "run" / "checkpoint.npz").exists()  # it is saved by now
            assert metrics.loss == pytest.approx(np.mean(self.losses))

    record = Record()
    train(small_world.folder, tmp_path / "run", replace(small_world.settings, n_epochs=1), observer=record)
    assert record.seen[:-1] == [(1, step, 10) for step in range(1, 11)]  # 300 users, 32 a step
    assert record.seen[-1] == (1, ["best", "best_a", "best_b"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_epochs": 0}, "n_epochs must be at least 1, found 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"n_negatives": 0}, "n_negatives must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0"),
        ({"hidden": 6, "n_heads": 4}, "n_heads must divide hidden"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"max_length": 0}, "must be at least 1"),
        ({"loss": "BCE"}, "loss must be one of bce, sampled-softmax, found 'BCE'"),
        ({"item_updates": "row"}, "item_updates must be one of rows, deferred, found 'row'"),
        ({"seed": -1}, "seed must be at least 0, found -1"),
        ({"n_augmented": 0}, "n_augmented must be at least 1, found 0"),
        ({"n_overlapped": 0}, "n_overlapped must be at least 1"),
        ({"recall_k": 0}, "recall_k must be at least 1"),
        ({"inner_learning_rate": 0.0}, "inner_learning_rate must be above 0"),
        ({"pooler_learning_rate": float("nan")}, "pooler_learning_rate must be above 0"),
        ({"inner_optimizer": "Adam"}, "inner_optimizer must be one of auto, none, sgd, adam, fresh-adam"),
        ({"text_deviation": 0.0}, "text_deviation must be above 0"),
        ({"text_deviation": float("nan")}, "text_deviation must be above 0"),
    ],
)
def test_impossible_settings_leave_no_run_behind(
    small_world: Any, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(small_world.folder, tmp_path / "run", TrainSettings(**wrong))
    assert not (tmp_path / "run").exists()  # the same name can be used again


def test_unusable_inputs_leave_no_run_behind(small_world: Any, tmp_path: Path) -> None:
    run, data = tmp_path / "run", small_world.data
    np.save(tmp_path / "text.npy", np.ones((65, 4)))
    with pytest.raises(DataError, match="one row for each of the 66 items"):
        train(small_world.folder, run, text_embeddings=tmp_path / "text.npy")
    with pytest.raises(DataError, match=r"none\.npy: cannot be read"):
        train(small_world.folder, run, text_embeddings=tmp_path / "none.npy")
    short = Histories.from_lists([[1], []], ["u", "v"])
    save_dataset(replace(data, train=short), tmp_path / "short")
    with pytest.raises(TrainingError, match="no training history of two items or more"):
        train(tmp_path / "short", run)
    save_dataset(replace(data, valid=Histories.from_lists([], [])), tmp_path / "unvalidated")
    with pytest.raises(TrainingError, match="no validation user"):
        train(tmp_path / "unvalidated", run)
    with pytest.raises(DataError, match=r"dataset\.json"):
        train(tmp_path, run)
    assert not run.exists()


def test_one_domain_without_validation_users(small_world: Any, tmp_path: Path) -> None:
    valid = Histories.from_lists([[1, 2, 3], [4, 5]], ["u", "v"])
    save_dataset(replace(small_world.data, valid=valid), tmp_path / "d")
    settings = replace(small_world.settings, n_epochs=1)
    result = train(tmp_path / "d", tmp_path / "run", settings)
    a, b = result.epochs[0].hr10
    assert result.best_hr10 == a
    assert np.isnan(b)
    assert sorted(p.name for p in (tmp_path / "run").glob("best*")) == ["best.npz", "best_a.npz"]
    longer = train(tmp_path / "d", tmp_path / "run", replace(settings, n_epochs=2), resume=True)
    assert len(longer.epochs) == 2
