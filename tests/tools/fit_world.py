"""A tiny shop for the pipeline: its files, its configuration, and what a call of it ran."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path

from llmcdsr_tools.pipeline.fitting import FitResult

STAGES = ["ingest", "embed", "names", "embed-names", "pretrain", "train", "export", "evaluate", "report"]
NAMES = 'generator = "neighbours"\nn_names = 4'
CONFIG = """
[ingest]
source = "interactions.csv"
items = "items.csv"
domains = ["food", "kitchen"]
core = 2
valid_share = 0.2
test_share = 0.2

[embed]
dimension = 8

[names]
generator = "neighbours"
n_names = 4

[pretrain]
n_blocks = 1
max_length = 8
n_epochs = 2
batch_size = 32

[train]
loss = "sampled-softmax"
n_negatives = 8
n_blocks = 1
max_length = 8
hidden = 8
n_epochs = 2
batch_size = 32
n_augmented = 8
n_overlapped = 8
recall_k = 2
inner_optimizer = "sgd"
"""


def write_world(folder: Path) -> Path:
    """Interactions, items and the configuration; users of food, of kitchenware and of both."""
    rng = random.Random(4)
    food, kitchen = [f"f{n}" for n in range(30)], [f"k{n}" for n in range(24)]
    rows = [["user", "item", "timestamp"]]
    for user in range(200):
        domains = (food, kitchen, food + kitchen, food + kitchen)[user % 4]
        liked = [item for item in domains if int(item[1:]) % 3 == user % 3]
        rows += [[f"u{user}", rng.choice(liked), str(at)] for at in range(rng.randint(5, 12))]
    tastes = ("sweet", "sour", "salt")
    items = [["item", "domain", "title"]]
    items += [[item, "food", f"{tastes[int(item[1:]) % 3]} <dish> {item}"] for item in food]
    items += [[item, "kitchen", f"{tastes[int(item[1:]) % 3]} pan & lid {item}"] for item in kitchen]
    for name, table in (("interactions", rows), ("items", items)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(table)
    (folder / "fit.toml").write_text(CONFIG, encoding="utf-8")
    return folder


def copy_of(world: Path, folder: Path, made: FitResult | None = None) -> Path:
    """The configuration of a copy of the world, or of all that an undisturbed run left."""
    source = world if made is None else made.bundle.parent
    return Path(shutil.copytree(source, folder / "copy")) / "fit.toml"


def ran(result: FitResult) -> list[str]:
    return [stage.name for stage in result.stages if not stage.cached]
