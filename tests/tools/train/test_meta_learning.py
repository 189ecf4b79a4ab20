"""Training with pseudo items and meta-learning: what moves, what repeats, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_tools.checkpoint import Checkpoint, load_checkpoint, load_model, load_poolers, save_checkpoint
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.data.dataset_folder import load_dataset, save_dataset
from llmcdsr_tools.embed_names import embed_names
from llmcdsr_tools.names import GeneratedNames, write_names
from llmcdsr_tools.run_folder import EpochMetrics
from llmcdsr_tools.train.recipes import InnerOptimizer, TrainSettings
from llmcdsr_tools.train.training import Observer
from llmcdsr_tools.train.training_run import train

DIMENSION, HIDDEN = 12, 16
INNER: tuple[InnerOptimizer, ...] = ("sgd", "adam", "fresh-adam")


@dataclass(frozen=True)
class NamedWorld:
    """A data set in which two users of three have one domain, names for them, and vectors."""

    folder: Path
    names: Path
    pretrained: Path
    settings: TrainSettings

    def train(self, run: Path, settings: TrainSettings | None = None, **options: Any) -> Any:
        inputs = {"names": self.names, "pretrained": self.pretrained, **options}
        return train(self.folder, run, settings or self.settings, **inputs)


def write_pretrained(path: Path, hidden: int = HIDDEN, dimension: int = DIMENSION) -> None:
    rng = np.random.default_rng(2)
    shapes = {"projection_1": dimension, "projection_2": dimension}
    arrays = {name: rng.normal(size=(hidden, n)).astype(np.float32) for name, n in shapes.items()}
    arrays |= {f"items_{d}": rng.normal(size=(n, hidden)).astype(np.float32) for d, n in ((1, 30), (2, 36))}
    save_checkpoint(path, Checkpoint(arrays, {"domains": [{}, {}]}))


@pytest.fixture(scope="module")
def world(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> NamedWorld:
    folder = tmp_path_factory.mktemp("named")
    data, rng = small_world.data, np.random.default_rng(1)
    histories = []
    for user, rows in enumerate(data.train):
        kept = [rows <= 30, rows > 30, rows > 0][user % 3]  # food alone, tools alone, both
        histories.append(rows[kept].tolist())
    named = replace(data, train=Histories.from_lists(histories, data.train.users))
    save_dataset(named, folder / "dataset")
    titles = data.catalogue.titles
    entries = []
    for user in range(0, len(histories), 3):
        for one, domain, first, n in ((user, "tools", 30, 36), (user + 1, "food", 0, 30)):
            places = rng.choice(n, int(rng.integers(3, 6)), replace=False)
            names = tuple(titles[first + place] for place in places.tolist())
            entries.append(GeneratedNames(data.train.users[one], domain, names, "test"))
    write_names(folder / "names.jsonl", entries)
    np.save(folder / "titles.npy", rng.normal(size=(66, DIMENSION)).astype(np.float32))
    embed_names(
        folder / "names.jsonl", folder / "dataset", folder / "names.npz", titles=folder / "titles.npy"
    )
    write_pretrained(folder / "pretrained.npz")
    settings = replace(
        small_world.settings, n_epochs=3, n_augmented=8, n_overlapped=16, recall_k=3, inner_optimizer="adam"
    )
    return NamedWorld(folder / "dataset", folder / "names.npz", folder / "pretrained.npz", settings)


def poolers_of(run: Path) -> npt.NDArray[np.float32]:
    found = load_poolers(run / "best.npz")
    assert found is not None
    return np.asarray(found)


@pytest.fixture(scope="module")
def undisturbed(world: NamedWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    world.train(run)
    return run


@pytest.mark.parametrize("loss", ["bce", "sampled-softmax"])
@pytest.mark.parametrize("optimizer", INNER)
def test_the_poolers_move_and_the_model_learns(
    world: NamedWorld, tmp_path: Path, optimizer: InnerOptimizer, loss: str
) -> None:
    settings = replace(world.settings, inner_optimizer=optimizer, loss=loss, n_epochs=2)
    result = world.train(tmp_path / "run", settings)
    assert result.epochs[-1].loss < result.epochs[0].loss
    first, last = (e.meta_loss for e in (result.epochs[0], result.epochs[-1]))
    assert last < first  # overlapped users are met in training, too
    poolers = poolers_of(tmp_path / "run")
    assert poolers.shape == (2, HIDDEN)
    assert (np.abs(poolers) > 0).all()  # an Adam step moves every element
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["meta_loss"] == first


def test_without_meta_learning_the_poolers_stay_at_zero(
    world: NamedWorld, small_world: Any, tmp_path: Path
) -> None:
    settings = replace(world.settings, inner_optimizer="none", n_epochs=1)
    result = world.train(tmp_path / "run", settings)
    assert result.epochs[0].meta_loss is None
    assert not poolers_of(tmp_path / "run").any()
    plain = train(world.folder, tmp_path / "plain", settings)
    assert plain.epochs[0].loss != result.epochs[0].loss  # the augmented sequences do count
    assert load_poolers(plain.run / "best.npz") is None


def test_the_inner_optimizer_matters(world: NamedWorld, tmp_path: Path) -> None:
    found = []
    for optimizer in INNER:
        settings = replace(world.settings, inner_optimizer=optimizer, n_epochs=1)
        world.train(tmp_path / optimizer, settings)
        found.append(poolers_of(tmp_path / optimizer))
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])


def assert_same_end(run: Path, other: Path) -> None:
    for name in ("best.npz", "best_1.npz", "best_2.npz"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    arrays, expected = (load_checkpoint(r / "checkpoint.npz").arrays for r in (run, other))
    assert arrays.keys() == expected.keys() >= {"poolers", "pooler_first", "pooler_second"}
    for name, array in arrays.items():
        assert array.tobytes() == expected[name].tobytes(), name


def test_the_same_seed_gives_the_same_bytes(world: NamedWorld, undisturbed: Path, tmp_path: Path) -> None:
    world.train(tmp_path / "again")
    assert_same_end(tmp_path / "again", undisturbed)


@pytest.mark.parametrize(
    ("epoch", "step"),
    [(2, 1), *(pytest.param(*at, marks=pytest.mark.slow) for at in ((1, 3), (3, 7)))],
)
def test_an_interrupted_run_ends_with_the_same_bytes(
    world: NamedWorld, undisturbed: Path, tmp_path: Path, epoch: int, step: int
) -> None:
    class Interrupt(Observer):
        def step(self, e: int, s: int, n_steps: int, loss: float) -> None:
            if (e, s) == (epoch, step):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.train(tmp_path / "run", observer=Interrupt())
    resumed = world.train(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", undisturbed)
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines()
    assert [replace(e, seconds=0.0) for e in resumed.epochs] == [
        replace(EpochMetrics.from_json(json.loads(line)), seconds=0.0) for line in lines
    ]


def test_another_run_is_not_gone_on_with(world: NamedWorld, undisturbed: Path, tmp_path: Path) -> None:
    header = (undisturbed / "run.json").read_bytes()
    write_pretrained(tmp_path / "other.npz", dimension=DIMENSION)
    content = load_checkpoint(tmp_path / "other.npz")
    save_checkpoint(tmp_path / "other.npz", Checkpoint(content.arrays, {"another": 1, "domains": [{}, {}]}))
    with pytest.raises(TrainingError, match="started with other pre-training, or none"):
        world.train(undisturbed, pretrained=tmp_path / "other.npz", resume=True)
    settings = replace(world.settings, inner_optimizer="none")
    with pytest.raises(TrainingError, match="started with other names, or none"):
        world.train(undisturbed, settings, names=None, pretrained=None, resume=True)
    with pytest.raises(TrainingError, match="inner_optimizer was 'adam' and is now 'none'"):
        world.train(undisturbed, settings, resume=True)
    assert (undisturbed / "run.json").read_bytes() == header


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {"names": None, "pretrained": None}, "inner_optimizer 'adam' needs embedded names"),
        ({}, {"pretrained": None}, "names need the file of pre-training"),
        ({"inner_optimizer": "none"}, {"names": None}, "but no names to recall items for"),
        ({"pretrained_items": True}, {"text_embeddings": "titles.npy"}, "and no text embeddings"),
        (
            {"pretrained_items": True, "inner_optimizer": "none"},
            {"names": None, "pretrained": None},
            "pretrained_items needs the file of pre-training",
        ),
        (
            {"pretrained_items": True, "hidden": 8, "inner_optimizer": "none"},
            {},
            "done with hidden size 16, the recommender has 8",
        ),
        ({"recall_k": 31}, {}, "recall_k is 31, but a domain has 30 items"),
        ({"hidden": 8}, {}, "done with hidden size 16, meta-learning needs that of the recommender, 8"),
    ],
)
def test_what_does_not_fit_leaves_no_run_behind(
    world: NamedWorld, tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    if "text_embeddings" in options:
        options = {**options, "text_embeddings": world.names.parent / options["text_embeddings"]}
    with pytest.raises(TrainingError, match=message):
        world.train(tmp_path / "run", replace(world.settings, **settings), **options)
    with pytest.raises(DataError, match=r"none\.npz"):
        world.train(tmp_path / "run", names=tmp_path / "none.npz")
    assert not (tmp_path / "run").exists()


def test_without_meta_learning_the_hidden_sizes_may_differ(world: NamedWorld, tmp_path: Path) -> None:
    settings = replace(world.settings, hidden=8, inner_optimizer="none", n_epochs=1)
    assert np.isfinite(world.train(tmp_path / "run", settings).epochs[0].loss)


@pytest.mark.parametrize("named", [False, True])
def test_items_start_from_pre_training(world: NamedWorld, tmp_path: Path, named: bool) -> None:
    settings = replace(
        world.settings, pretrained_items=True, inner_optimizer="none", learning_rate=1e-9, n_epochs=1
    )
    world.train(tmp_path / "run", settings, names=world.names if named else None)
    model, _ = load_model(tmp_path / "run" / "best.npz")
    vectors = load_checkpoint(world.pretrained).arrays
    expected = np.concatenate([vectors["items_1"], vectors["items_2"]])
    np.testing.assert_allclose(model.item_embedding[1:], expected, atol=1e-6)
    assert not model.item_embedding[0].any()


def test_meta_learning_needs_overlapped_users(world: NamedWorld, small_world: Any, tmp_path: Path) -> None:
    data = load_dataset(world.folder)
    alone = [h[(h <= 30) == (h[0] <= 30)].tolist() for h in data.train]
    save_dataset(replace(data, train=Histories.from_lists(alone, data.train.users)), tmp_path / "dataset")
    with pytest.raises(TrainingError, match="needs overlapped users, and the data set has none"):
        train(
            tmp_path / "dataset",
            tmp_path / "run",
            world.settings,
            names=world.names,
            pretrained=world.pretrained,
        )


def test_the_command(world: NamedWorld, tmp_path: Path) -> None:
    options = {
        "--names": world.names,
        "--pretrained": world.pretrained,
        "--inner-optimizer": "sgd",
        "--inner-learning-rate": 0.2,
        "--pooler-learning-rate": 0.01,
        "--augmented": 7,
        "--overlapped": 9,
        "--recall-k": 2,
        "--hidden": HIDDEN,
        "--max-length": 10,
        "--batch-size": 100,
        "--epochs": 1,
    }
    arguments = [str(part) for option in options.items() for part in option]
    result = CliRunner().invoke(cli, ["train", str(world.folder), "-o", str(tmp_path / "run"), *arguments])
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    wanted = {
        "inner_optimizer": "sgd",
        "inner_learning_rate": 0.2,
        "pooler_learning_rate": 0.01,
        "n_augmented": 7,
        "n_overlapped": 9,
        "recall_k": 2,
    }
    assert {name: settings[name] for name in wanted} == wanted
    assert np.abs(poolers_of(tmp_path / "run")).max() == pytest.approx(0.03, rel=0.9)  # 3 steps of 0.01


@pytest.mark.parametrize(
    ("pretrained_items", "with_names", "expected"),
    [(True, True, "adam"), (False, True, "none"), (True, False, "none")],
)
def test_auto_trains_the_poolers_where_the_gradient_has_a_direction(
    world: NamedWorld, tmp_path: Path, pretrained_items: bool, with_names: bool, expected: str
) -> None:
    settings = replace(world.settings, inner_optimizer="auto", pretrained_items=pretrained_items, n_epochs=1)
    result = world.train(tmp_path / "run", settings, names=world.names if with_names else None)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert recorded["inner_optimizer"] == expected  # what was done, not that it was left open
    assert (result.epochs[0].meta_loss is not None) == (expected != "none")
