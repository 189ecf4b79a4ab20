"""What `add_items` is worth: ``python benchmarks/new_items.py WORK``, WORK of benchmarks/food_kitchen.py.

One item in twenty of each domain is held out: the recipe "softmax" is trained on the data as it was before
they existed, in no history, not in the catalogue, not among the negatives. Then they are added by their
titles. Wherever a validation or test user has one of them, it is ranked in its domain, against what the same
recipe trained with all items makes of the same places, and against other ways to a vector. A history is what
precedes; it may hold held-out items, too. The ridge regression's strength is chosen on validation. Last, what
the additions cost: the places of all other items, before and after.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.ensemble import SASRecEnsemble
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.data.dataset import Dataset, Split
from llmcdsr_tools.data.dataset_folder import load_dataset, save_dataset
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.official import ranks
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.holdout import HeldOut, hold_out, occurrences
from llmcdsr_tools.run_folder import best_model
from llmcdsr_tools.text_initialization import load_text_embeddings
from llmcdsr_tools.title_map import principal_components
from llmcdsr_tools.train.recipes import TrainSettings, recipe_settings
from llmcdsr_tools.train.training_run import train

SHARE = 0.05
STRENGTHS = (0.01, 0.1, 1.0, 10.0)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """Parameters, and the catalogue that their rows are of."""

    parameters: SASRecParameters | SASRecEnsemble
    catalogue: Catalogue

    def with_vectors(self, rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.floating]) -> Model:
        """The same model with other vectors for some items."""
        table = np.array(self.parameters.item_embedding, dtype=np.float32)
        table[rows] = vectors
        parameters = SASRecParameters(self.parameters.config, table, self.parameters.dense)
        return Model(parameters, self.catalogue)


@dataclass(frozen=True)
class Measured:
    """HR@10 against 999 negatives, in expectation, and in the whole domain; median rank there."""

    n: int
    hr10: float
    hr10_full: float
    median: float

    def __str__(self) -> str:
        error = math.sqrt(self.hr10 * (1 - self.hr10) / max(1, self.n))
        return f"{self.hr10:.3f} ±{error:.3f} / {self.hr10_full:.3f} / {self.median:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = load_dataset(arguments.work / "dataset")
    text = load_text_embeddings(arguments.work / "titles.npy", len(data.catalogue))
    held = hold_out(data, SHARE, arguments.seed)
    reduced = train_without(data, text, held, arguments.work / f"new-items-{arguments.seed}", arguments.seed)
    whole = train_with_all(arguments.work, arguments.seed)
    models = candidates(data, text, held, reduced, whole, arguments.seed)
    print(f"{len(held.rows):,} of {len(data.catalogue):,} items held out")
    splits: tuple[Split, ...] = ("valid", "test")
    for split in splits:
        print_table(data, held, models, split)
    print_cost(data, held, reduced, models["added by title"])


def train_without(data: Dataset, text: FloatArray, held: HeldOut, folder: Path, seed: int) -> Path:
    """Bundle of the recipe trained without the held-out items, as far as it is not there."""
    bundle = folder / "bundle"
    if not bundle.exists():
        folder.mkdir(exist_ok=True)
        save_dataset(held.reduced, folder / "dataset", overwrite=True)
        np.save(folder / "titles.npy", text[held.kept - 1])
        settings = recipe_settings("official", loss="sampled-softmax", n_negatives=256, seed=seed)
        titles = folder / "titles.npy"
        train(folder / "dataset", folder / "run", settings, text_embeddings=titles, resume=True)
        export(folder / "run", bundle, dataset=folder / "dataset", text_embeddings=titles)
    return bundle


def train_with_all(work: Path, seed: int) -> SASRecParameters:
    """The model trained with all items: the run of the results table, if it is there."""
    run = work / "runs" / f"softmax-{seed}" / "run"
    settings = recipe_settings("official", loss="sampled-softmax", n_negatives=256, seed=seed)
    if not (run / "best.npz").exists():
        train(work / "dataset", run, settings, text_embeddings=work / "titles.npy", resume=True)
    parameters, _ = load_model(best_model(run, "mean"))
    parameters.item_embedding[0] = 0
    return parameters


def candidates(
    data: Dataset, text: FloatArray, held: HeldOut, bundle: Path, whole: SASRecParameters, seed: int
) -> dict[str, Model]:
    """Ways to vectors of the held-out items, by name."""
    recommender = Recommender.load(bundle)
    of_domain = [data.catalogue.domain_of_row(row).name for row in held.rows.tolist()]
    ids, titles = data.catalogue.ids, data.catalogue.titles
    grown = recommender.add_items(
        NewItem(ids[row - 1], domain, titles[row - 1], text[row - 1])
        for row, domain in zip(held.rows.tolist(), of_domain, strict=True)
    )
    added = Model(grown.bundle.parameters, grown.items)
    rows, _ = grown.items.rows([ids[row - 1] for row in held.rows.tolist()])
    trained = recommender.bundle.item_vectors
    rng = np.random.default_rng([seed, 8])
    random = rng.normal(0, np.sqrt(np.mean(trained[1:] ** 2)), (len(rows), trained.shape[1]))
    return {
        "trained with them": Model(whole, data.catalogue),
        "added by title": added,
        "ridge regression": added.with_vectors(rows, best_ridge(data, text, held, added, rows, trained)),
        "start of training": added.with_vectors(rows, start_of_training(text, held, trained.shape[1])),
        "random": added.with_vectors(rows, random),
    }


def best_ridge(
    data: Dataset,
    text: FloatArray,
    held: HeldOut,
    added: Model,
    rows: npt.NDArray[np.int64],
    trained: FloatArray,
) -> FloatArray:
    """Linear map from titles to trained vectors, made as long as those are; the best on validation."""
    known, new = text[held.kept - 1].astype(np.float64), text[held.rows - 1].astype(np.float64)
    mean, target_mean = known.mean(axis=0), trained[1:].mean(axis=0)
    centred = known - mean
    gram = centred.T @ centred
    length = np.linalg.norm(trained[1:], axis=1).mean()
    found = []
    for strength in STRENGTHS:
        ridge = strength * np.trace(gram) / len(gram) * np.eye(len(gram))
        weights = np.linalg.solve(gram + ridge, centred.T @ (trained[1:] - target_mean))
        vectors = (new - mean) @ weights + target_mean
        vectors *= length / np.linalg.norm(vectors, axis=1, keepdims=True)
        model = added.with_vectors(rows, vectors)
        found.append((sum(m.hr10 for m in measure(data, held.rows, model, "valid")), vectors))
    best: FloatArray = max(found, key=lambda pair: pair[0])[1].astype(np.float32)
    return best


def start_of_training(text: FloatArray, held: HeldOut, hidden: int) -> FloatArray:
    """Where training would have started: the principal components of the titles."""
    known = text[held.kept - 1]
    components = principal_components(known)[:, :hidden]
    placed = known @ components[:-1] + components[-1]
    scale = TrainSettings().text_deviation / np.sqrt(np.mean(placed**2))
    vectors: FloatArray = (text[held.rows - 1] @ components[:-1] + components[-1]) * scale
    return vectors.astype(np.float32)


def measure(data: Dataset, targets: npt.NDArray[np.int64], model: Model, split: Split) -> list[Measured]:
    """Rank the places of these items (rows of `data`) for target domain A and B."""
    new_row = np.zeros(len(data.catalogue) + 1, dtype=np.int64)  # rows of the data set to rows of the model
    found = model.catalogue.row_of_id
    new_row[1:] = [found.get(item, 0) for item in data.catalogue.ids]
    queries = occurrences(data.split(split), targets)
    placed = [new_row[history] for history in queries.histories]
    usable = [i for i, history in enumerate(placed) if history.any()]
    everyone = Queries([placed[i][placed[i] > 0] for i in usable], new_row[queries.targets[usable]])
    results = []
    for domain in model.catalogue.domains:
        chosen = everyone.into(domain)
        none = np.zeros((len(chosen.targets), 0), dtype=np.int64)
        table = model.parameters.item_embedding
        _, rank = ranks(NumpyBackend(model.parameters), table, chosen, domain, none)
        hits = ExpectedMetrics(domain.n_items).hits(rank)
        full = float((rank < 10).mean())
        results.append(Measured(len(rank), float(hits.mean()), full, float(np.median(rank)) + 1))
    return results


def print_table(data: Dataset, held: HeldOut, models: dict[str, Model], split: Split) -> None:
    """The held-out items by every way to a vector."""
    measured = {name: measure(data, held.rows, model, split) for name, model in models.items()}
    counts = next(iter(measured.values()))
    print(f"\n{split}: places of held-out items, {' and '.join(f'{one.n:,}' for one in counts)}")
    heads = "".join(f"{domain.name:>34}" for domain in data.catalogue.domains)
    print(f"{'HR@10 of 999 / whole domain / median rank':<42}{heads}")
    for name, of_domains in measured.items():
        print(f"{name:<42}" + "".join(f"{one!s:>34}" for one in of_domains))


def print_cost(data: Dataset, held: HeldOut, bundle: Path, added: Model) -> None:
    """All other items of the test users, without the held-out ones in the catalogue and with them."""
    before = Recommender.load(bundle, backend="numpy")
    without = Model(before.bundle.parameters, before.items)
    print("\ntest: places of all other items")
    for name, model in (("before", without), ("after", added)):
        of_a, of_b = measure(data, held.kept, model, "test")
        print(f"{name:<42}{of_a!s:>34}{of_b!s:>34}")


if __name__ == "__main__":
    main()
