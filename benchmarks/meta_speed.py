"""Seconds an epoch of the full procedure: ``python benchmarks/meta_speed.py DATASET [NAMES PRETRAINED]``.

Official sizes: H 64, 2 blocks, batch 128, BCE; 32 augmented sequences and 128 overlapped users a step.
One epoch without pseudo items, one with pseudo items alone, and one with each inner optimiser are timed in
this one process, in wall and processor time, and compared with the first. Without NAMES and PRETRAINED
(see `embed_names` and `pretrain`), every single-domain user gets ten random titles of the other domain,
and vectors are random too: that costs the same.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.embed_names import EmbeddedNames, load_embedded_names
from llmcdsr_tools.optimization.batches import epoch_batches
from llmcdsr_tools.pretrain.pretraining import Pretrained, load_pretrained
from llmcdsr_tools.train.meta_learning import MetaLearning
from llmcdsr_tools.train.recipes import InnerOptimizer, recipe_settings
from llmcdsr_tools.train.training import Training

# One epoch of the official PyTorch code with its meta step on a 2-core machine, as measured for the issue.
OFFICIAL_SECONDS = 364.0
N_NAMES, DIMENSION = 10, 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("names", type=Path, nargs="?")
    parser.add_argument("pretrained", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, help="Stop each epoch after so many steps, and extrapolate.")
    parser.add_argument("--loss", choices=["bce", "sampled-softmax"], default="bce")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset)
    if arguments.pretrained is None:
        names, pretrained = random_names(data)
    else:
        names = load_embedded_names(arguments.names, data)
        pretrained = load_pretrained(arguments.pretrained, data)
    kinds: tuple[InnerOptimizer, ...] = ("none", "sgd", "adam", "fresh-adam")
    with threadpool_limits(arguments.threads, user_api="blas"):
        settings = recipe_settings("official", loss=arguments.loss)
        plain = measure("no pseudo items", Training(data, settings), arguments.steps)
        for kind in kinds:
            settings = recipe_settings("official", loss=arguments.loss, inner_optimizer=kind)
            meta = MetaLearning(data, names, pretrained, settings)
            label = "pseudo items, no meta step" if kind == "none" else f"meta step, inner {kind}"
            seconds = measure(label, Training(data, settings, meta=meta), arguments.steps)
            against = f"  {seconds / plain:.1f} of the first"
            if kind != "none":
                against += f"; the official code's {OFFICIAL_SECONDS:.0f} s / ours: "
                against += f"{OFFICIAL_SECONDS / seconds:.1f}"
            print(against, flush=True)


def measure(label: str, training: Training, n_steps: int | None) -> float:
    """Print the seconds of one epoch, and return the processor's."""
    rng = np.random.default_rng(0)
    size = training.settings.batch_size
    n_all = -(-len(training.sequences) // size)
    n = min(n_steps or n_all, n_all)
    wall, processor = time.perf_counter(), time.process_time()
    for batch in islice(epoch_batches(training.sequences, size, rng), n):
        training.step(batch, rng)
    wall, processor = (
        (now - then) * n_all / n
        for now, then in ((time.perf_counter(), wall), (time.process_time(), processor))
    )
    print(f"{label:<28}{wall:8.2f} s an epoch of {n_all} steps, {processor:8.2f} s of processor time")
    return processor


def random_names(data: Dataset) -> tuple[EmbeddedNames, Pretrained]:
    """Random titles for every user of each domain that the user lacks, and random vectors."""
    rng = np.random.default_rng(0)
    lacks = ~data.train.has_domains(data.catalogue) & (data.train.lengths > 0)[:, None]
    users, domains = np.nonzero(lacks)
    starts, sizes = (
        np.array([getattr(d, field) for d in data.catalogue.domains])[domains][:, None]
        for field in ("start", "n_items")
    )
    index = starts - 1 + (rng.random((len(users), N_NAMES)) * sizes).astype(np.int64)
    text = rng.normal(size=(len(data.catalogue), DIMENSION)).astype(np.float32)
    offsets = np.arange(len(users) + 1) * N_NAMES
    n_items = [d.n_items for d in data.catalogue.domains]
    projections = rng.normal(size=(len(n_items), 64, DIMENSION)).astype(np.float32)
    items = tuple(rng.normal(size=(size, 64)).astype(np.float32) for size in n_items)
    names = EmbeddedNames(text, offsets, index.ravel(), users, domains)
    return names, Pretrained(tuple(projections), items, {})


if __name__ == "__main__":
    main()
