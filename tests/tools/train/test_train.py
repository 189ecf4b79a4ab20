from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.run_folder import EpochMetrics
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.training import Observer
from llmcdsr_tools.train.training_run import TrainResult, train

BEST = ("best.npz", "best_1.npz", "best_2.npz")


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


def test_the_official_loss_learns_too(small_world: Any, tmp_path: Path) -> None:
    settings = replace(small_world.settings, loss="bce", n_epochs=6, criterion="sampled-hr")
    result = train(small_world.folder, tmp_path / "run", settings)
    popularity = sum(popularity_hr10(small_world.data)) / 2
    assert result.epochs[-1].loss < result.epochs[0].loss
    assert result.best_merit > popularity + 0.1


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
    means = [sum(e.ndcg10) / 2 for e in small_run.epochs]
    assert small_run.best_merit == pytest.approx(max(means))
    assert small_run.best_epoch == means.index(max(means)) + 1
    for i, name in enumerate(BEST[1:]):
        values = [e.ndcg10[i] for e in small_run.epochs]
        _, description = load_model(small_run.run / name)
        assert description["epoch"] == values.index(max(values)) + 1
    assert not small_run.stopped_early


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
    assert record.seen[-1] == (1, ["best", "best_1", "best_2"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_epochs": 0}, "n_epochs must be at least 1, found 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 0"),
        ({"n_negatives": 0}, "n_negatives must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0"),
        ({"hidden": 6, "n_heads": 4}, "n_heads must divide hidden"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"max_length": -1}, "max_length must be at least 0"),
        ({"loss": "BCE"}, "loss must be one of bce, sampled-softmax, found 'BCE'"),
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
    a, b = result.epochs[0].ndcg10
    assert result.best_merit == a
    assert np.isnan(b)
    assert sorted(p.name for p in (tmp_path / "run").glob("best*")) == ["best.npz", "best_1.npz"]
    longer = train(tmp_path / "d", tmp_path / "run", replace(settings, n_epochs=2), resume=True)
    assert len(longer.epochs) == 2


def ndcg10_by_loops(data: Dataset, model: SASRecParameters, number: int) -> float:
    """NDCG@10 in the whole domain of every position of the validation histories whose item is of it."""
    domain, gains = data.catalogue.domains[number], []
    for history in data.valid:
        for place in range(1, len(history)):
            target = int(history[place])
            if domain.start <= target < domain.stop:
                vector = NumpyBackend(model).represent([history[:place]])[0]
                scores = model.item_embedding[domain.start : domain.stop] @ vector
                rank = int((scores >= scores[target - domain.start]).sum())
                gains.append(1 / math.log2(1 + rank) if rank <= 10 else 0.0)
    return sum(gains) / len(gains)


@pytest.mark.parametrize("sizes", [(66,), (30, 16, 20)])
def test_any_number_of_domains(small_world: Any, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    whole = small_world.data.catalogue
    catalogue = Catalogue.from_sizes(whole.ids, whole.titles, "abc"[: len(sizes)], sizes)
    data = replace(small_world.data, catalogue=catalogue)
    save_dataset(data, tmp_path / "dataset")
    run = tmp_path / "run"
    result = train(tmp_path / "dataset", run, replace(small_world.settings, n_epochs=1))
    result = train(tmp_path / "dataset", run, replace(small_world.settings, n_epochs=2), resume=True)
    assert len(result.epochs) == 2
    assert {p.name for p in run.glob("best*")} == {
        "best.npz",
        *(f"best_{n}.npz" for n in range(1, len(sizes) + 1)),
    }
    assert json.loads((run / "run.json").read_text())["domains"] == list("abc"[: len(sizes)])
    for number in range(len(sizes)):
        assert len(result.epochs[0].ndcg10) == len(sizes)
        values = [e.ndcg10[number] for e in result.epochs]
        model, description = load_model(run / f"best_{number + 1}.npz")
        assert description["epoch"] == values.index(max(values)) + 1
        assert ndcg10_by_loops(data, model, number) == pytest.approx(max(values), rel=1e-4)
    means = [sum(e.ndcg10) / len(sizes) for e in result.epochs]
    assert result.best_merit == pytest.approx(max(means))
    assert load_model(run / "best.npz")[1]["epoch"] == result.best_epoch == means.index(max(means)) + 1


@pytest.mark.parametrize("loss", ["bce", "sampled-softmax"])
@pytest.mark.parametrize("sizes", [(66,), (30, 16, 20)])
def test_cold_sequences_of_any_number_of_domains(
    small_world: Any, tmp_path: Path, sizes: tuple[int, ...], loss: Any
) -> None:
    whole = small_world.data.catalogue
    catalogue = Catalogue.from_sizes(whole.ids, whole.titles, "abc"[: len(sizes)], sizes)
    save_dataset(replace(small_world.data, catalogue=catalogue), tmp_path / "dataset")
    settings = replace(small_world.settings, cold_sequences=True, n_epochs=1, loss=loss)
    result = train(tmp_path / "dataset", tmp_path / "run", settings)
    assert all(math.isfinite(value) for value in (result.epochs[0].loss, *result.epochs[0].ndcg10))
