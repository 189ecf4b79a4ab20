"""A small world that can be learned, a data set of it, and a run trained on it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.training_run import TrainResult, train

N_A, N_B = 30, 36


@dataclass(frozen=True)
class SmallWorld:
    """Rows 1..30 are food, 31..66 tools; in each domain every item is mostly followed by the next one."""

    data: Dataset
    folder: Path
    settings: TrainSettings


def walks(n_users: int, rng: np.random.Generator) -> list[list[int]]:
    """Histories of one domain, then the other; what comes next in a domain is the next row, in a circle."""
    histories = []
    for _ in range(n_users):
        places = [int(rng.integers(N_A)), int(rng.integers(N_B))]
        history = []
        length, first = int(rng.integers(6, 12)), int(rng.integers(2))
        for step in range(length):
            domain = first if 2 * step < length else 1 - first
            history.append(1 + places[0] if domain == 0 else 1 + N_A + places[1])
            places[domain] = (places[domain] + 1) % (N_A, N_B)[domain]
        histories.append(history)
    return histories


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """The data set on disk, never to be changed, and settings that learn it in a few epochs."""
    rng = np.random.default_rng(0)
    ids = [f"f{n}" for n in range(N_A)] + [f"t{n}" for n in range(N_B)]
    titles = [f"food {n}" for n in range(N_A)] + [f"tool {n}" for n in range(N_B)]
    catalogue = Catalogue.from_sizes(ids, titles, ("food", "tools"), (N_A, N_B))
    splits = {}
    for name, n_users in (("train", 300), ("valid", 50), ("test", 50)):
        splits[name] = Histories.from_lists(walks(n_users, rng), [f"{name}{n}" for n in range(n_users)])
    data = Dataset(catalogue, **splits)
    folder = tmp_path_factory.mktemp("small_world") / "dataset"
    save_dataset(data, folder)
    settings = TrainSettings(
        n_epochs=4,
        batch_size=32,
        learning_rate=0.01,
        hidden=16,
        n_heads=2,
        max_length=10,
        dropout=0.1,
        loss="sampled-softmax",
        n_negatives=16,
    )
    return SmallWorld(data, folder, settings)


@pytest.fixture(scope="session")
def small_run(small_world: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A finished run of the small world, never to be changed."""
    run = tmp_path_factory.mktemp("small_run") / "run"
    return train(small_world.folder, run, small_world.settings)


@pytest.fixture
def run(small_run: TrainResult, tmp_path: Path) -> Path:
    """A copy of the small run that may be changed."""
    return Path(shutil.copytree(small_run.run, tmp_path / "run"))
