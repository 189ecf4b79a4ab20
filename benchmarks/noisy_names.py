"""Do the poolers tell names from noise: ``python benchmarks/noisy_names.py DATASET NAMES PRETRAINED TITLES``.

Every user gets as many random titles of the same domain as there are names. Pooling at random gives the
names half of the weight; printed is what they get after each epoch of training with item embeddings
started from pre-training, for each inner optimiser. Poolers that learn relevance give them more.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from llmcdsr_lite.model.packing import token_indices
from llmcdsr_lite.model.recall_network import pool
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.embed_names import EmbeddedNames, load_embedded_names
from llmcdsr_tools.optimization.batches import epoch_batches
from llmcdsr_tools.pretrain.pretraining import load_pretrained
from llmcdsr_tools.text_initialization import load_text_embeddings
from llmcdsr_tools.train.meta_learning import MetaLearning
from llmcdsr_tools.train.recipes import InnerOptimizer, recipe_settings
from llmcdsr_tools.train.training import Training

Flags = npt.NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("names", type=Path)
    parser.add_argument("pretrained", type=Path)
    parser.add_argument("titles", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--inner", nargs="+", default=["sgd", "adam", "fresh-adam"])
    parser.add_argument("--loss", choices=["bce", "sampled-softmax"], default="bce")
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset)
    pretrained = load_pretrained(arguments.pretrained, data)
    titles = load_text_embeddings(arguments.titles, len(data.catalogue))
    embedded, is_name = with_noise(load_embedded_names(arguments.names, data), titles, data)
    print(f"{'inner':<12}{'epoch':>6}{'weight of names, A':>20}{'B':>8}")
    with threadpool_limits(1, user_api="blas"):
        for inner in arguments.inner:
            kind: InnerOptimizer = inner
            settings = recipe_settings(
                "official", loss=arguments.loss, hidden=pretrained.hidden, inner_optimizer=kind
            )
            meta = MetaLearning(data, embedded, pretrained, settings)
            training = Training(data, settings, None, np.concatenate(pretrained.items), meta)
            for epoch in range(1, arguments.epochs + 1):
                rng = np.random.default_rng([0, epoch])
                for batch in epoch_batches(training.sequences, settings.batch_size, rng):
                    training.step(batch, rng)
                a, b = (weight_of_names(meta, is_name, domain) for domain in (0, 1))
                print(f"{kind:<12}{epoch:>6}{a:>20.3f}{b:>8.3f}", flush=True)


def with_noise(
    embedded: EmbeddedNames, titles: npt.NDArray[np.float32], data: Dataset
) -> tuple[EmbeddedNames, Flags]:
    """As many random titles for every user as there are names; which of all are names."""
    rng = np.random.default_rng(0)
    has = data.train.has_domains(data.catalogue)[embedded.users]  # (entries, domains)
    kept = np.flatnonzero(~has[np.arange(len(has)), embedded.domains] & has.any(axis=1))
    counts = np.diff(embedded.offsets)[kept]
    index = np.empty(2 * counts.sum(), dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(2 * counts)])
    places = token_indices(offsets[:-1], counts)
    is_name = np.zeros(len(index), dtype=np.bool_)
    is_name[places] = True
    index[places] = embedded.index[token_indices(embedded.offsets[kept], counts)]
    domains = data.catalogue.domains
    drawn = [len(embedded.text) + rng.integers(d.start - 1, d.stop - 1, len(places)) for d in domains]
    index[~is_name] = np.choose(np.repeat(embedded.domains[kept], counts), drawn)
    noisy = replace(
        embedded,
        text=np.concatenate([embedded.text, titles]),
        offsets=offsets,
        index=index,
        users=embedded.users[kept],
        domains=embedded.domains[kept],
    )
    return noisy, is_name


def weight_of_names(meta: MetaLearning, is_name: Flags, domain: int) -> float:
    """Mean share of the pooling weights that a user's names get."""
    network = meta.network
    entries = np.flatnonzero(network.domains == domain)
    counts = network.offsets[entries + 1] - network.offsets[entries]
    places = token_indices(network.offsets[entries], counts)
    names = network.names[domain][network.index[places]]
    _, cache = pool(names, np.concatenate([[0], np.cumsum(counts)]), meta.poolers[domain])
    return float(cache.weights[is_name[places]].sum() / len(entries))


if __name__ == "__main__":
    main()
