"""Does the meta-gradient point anywhere: ``python benchmarks/meta_signal.py DATASET NAMES PRETRAINED``.

Trains for some epochs with pseudo items and poolers at zero, then takes the meta-gradient of many steps
without taking the steps. If they share a direction, the means of the odd and the even ones have a cosine
near 1; if they are noise, near 0. Printed for each inner optimiser and pooler, with item embeddings
started at random and from the vectors of pre-training, beside the cosine of the float32 gradients with
the same ones in float64.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.embed_names import EmbeddedNames, load_embedded_names
from llmcdsr_tools.optimization.batches import epoch_batches
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings
from llmcdsr_tools.pretrain.pretraining import Pretrained, load_pretrained
from llmcdsr_tools.train.gradients import differentiate
from llmcdsr_tools.train.meta_learning import MetaLearning, Optimizers
from llmcdsr_tools.train.objectives import ObjectiveSource
from llmcdsr_tools.train.recipes import InnerOptimizer, recipe_settings
from llmcdsr_tools.train.training import Training

KINDS: tuple[InnerOptimizer, ...] = ("sgd", "adam", "fresh-adam")


class Recorder(Adam):
    """Keeps the gradients that it is given, and moves nothing."""

    def __init__(self, values: FloatArray) -> None:
        super().__init__(values, AdamSettings())
        self.gradients: list[FloatArray] = []

    def step(self, gradient: FloatArray) -> None:
        """Keep it."""
        self.gradients.append(gradient)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("names", type=Path)
    parser.add_argument("pretrained", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--loss", choices=["bce", "sampled-softmax"], default="bce")
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset)
    names = load_embedded_names(arguments.names, data)
    pretrained = load_pretrained(arguments.pretrained, data)
    settings = recipe_settings("official", loss=arguments.loss, hidden=pretrained.hidden)
    print(f"{'items start from':<18}{'inner':<12}{'pooler':<8}{'halves, cosine':>15}{'float32, cosine':>17}")
    with threadpool_limits(1, user_api="blas"):
        for start in ("random", "pre-training"):
            vectors = np.concatenate(pretrained.items) if start == "pre-training" else None
            meta = MetaLearning(data, names, pretrained, settings)
            training = Training(data, settings, None, vectors, meta)
            for epoch in range(arguments.epochs):
                rng = np.random.default_rng(epoch)
                for batch in epoch_batches(training.sequences, settings.batch_size, rng):
                    training.step(batch, rng)
            for kind in KINDS:
                arrays = meta_gradients(training, names, pretrained, kind, arguments.steps, np.float32)
                exact = meta_gradients(training, names, pretrained, kind, 5, np.float64)
                for domain, letter in enumerate("AB"):
                    found = arrays[:, domain]
                    halves = cosine(found[::2].mean(axis=0), found[1::2].mean(axis=0))
                    close = min(cosine(a, b) for a, b in zip(found, exact[:, domain], strict=False))
                    print(f"{start:<18}{kind:<12}{letter:<8}{halves:15.2f}{close:17.7f}", flush=True)


def meta_gradients(
    training: Training,
    names: EmbeddedNames,
    pretrained: Pretrained,
    kind: InnerOptimizer,
    n_steps: int,
    dtype: npt.DTypeLike,
) -> FloatArray:
    """Meta-gradients (steps, 2, H) of the first steps of an epoch, from where the training stands."""
    data: Dataset = training.data
    settings = replace(training.settings, inner_optimizer=kind)
    meta = MetaLearning(data, names, pretrained, settings)
    meta.poolers = meta.poolers.astype(dtype)
    meta.network = replace(
        meta.network,
        names=(meta.network.names[0].astype(dtype), meta.network.names[1].astype(dtype)),
    )
    meta.adam = recorder = Recorder(meta.poolers)
    parameters = SASRecParameters(
        training.parameters.config,
        training.parameters.item_embedding.astype(dtype),
        training.parameters.dense.astype(dtype),
    )
    adams = Adam(parameters.dense, AdamSettings()), Adam(parameters.item_embedding, AdamSettings())
    for adam, trained in zip(adams, (training.dense_adam, training.item_adam), strict=True):
        adam.first, adam.second = trained.first.astype(dtype), trained.second.astype(dtype)
        adam.n_steps = trained.n_steps
    batches = epoch_batches(training.sequences, settings.batch_size, np.random.default_rng(0))
    for step, batch in enumerate(islice(batches, n_steps)):
        rng = np.random.default_rng([1, step])
        draw = ObjectiveSource(settings.loss, settings.n_negatives, data.catalogue, rng)
        base, run = differentiate(parameters, batch, draw, rng)
        meta.step(parameters, base, Optimizers(*adams), draw.like(run.objective), draw, rng)
    return np.array(recorder.gradients)


def cosine(a: FloatArray, b: FloatArray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


if __name__ == "__main__":
    main()
