"""The results table: ``python benchmarks/food_kitchen.py SOURCE WORK --encoder FOLDER``.

Takes SOURCE, the official Food-Kitchen data, from ingest to bundles, for every recipe and seed, and prints
HR@10 and NDCG@10 of the test users: mean over the seeds, and the largest distance from it. The epoch of a
run, and what its bundle does with pseudo items, are chosen on validation; the test split is read once, at
the end. What is in WORK already is not done again, so that an interrupted call goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.ingestion import ingest
from llmcdsr_tools.embed import embed
from llmcdsr_tools.embed_names import embed_names
from llmcdsr_tools.evaluation.official import Result, evaluate, open_answers, open_model
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.neighbours import neighbours
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.pretrain.pretraining import pretrain
from llmcdsr_tools.train.recipes import TrainSettings, recipe_settings
from llmcdsr_tools.train.training_run import train


@dataclass(frozen=True)
class Recipe:
    """A line of the table.

    Parameters
    ----------
    label : str
    settings : TrainSettings
    from_text : bool
        Start the items from the titles.
    names : {"neighbours", "language-model"}, optional
        Train with pseudo items, recalled for the names of this generator.
    """

    label: str
    settings: TrainSettings
    from_text: bool = False
    names: Literal["neighbours", "language-model"] | None = None


OFFICIAL = recipe_settings("official")
SOFTMAX = replace(OFFICIAL, loss="sampled-softmax", n_negatives=256)
WIDE = replace(SOFTMAX, hidden=128, n_negatives=512, dropout=0.6, learning_rate=5e-4)  # chosen on validation
META = replace(SOFTMAX, pretrained_items=True, inner_optimizer="none")
RECIPES = {
    "official": Recipe("official recipe: BCE, 1 negative", OFFICIAL),
    "softmax": Recipe("sampled softmax, items from titles", SOFTMAX, from_text=True),
    "cold": Recipe("  + cold sequences", replace(SOFTMAX, cold_sequences=True), from_text=True),
    "wide": Recipe("  + cold sequences, H 128", replace(WIDE, cold_sequences=True), from_text=True),
    "names": Recipe("  + pseudo items, no meta-learning", SOFTMAX, from_text=True, names="neighbours"),
    "pretrained": Recipe("sampled softmax, items from pre-training", META),
    "pretrained-names": Recipe("  + pseudo items, no meta-learning", META, names="neighbours"),
    "sgd": Recipe("  + meta-learning, SGD", replace(META, inner_optimizer="sgd"), names="neighbours"),
    "adam": Recipe("  + meta-learning, Adam", replace(META, inner_optimizer="adam"), names="neighbours"),
    "fresh-adam": Recipe(
        "  + meta-learning, fresh Adam", replace(META, inner_optimizer="fresh-adam"), names="neighbours"
    ),
    "pretrained-llm": Recipe(
        "  + pseudo items of the local LM, no meta-learning", META, names="language-model"
    ),
    "sgd-llm": Recipe(
        "  + the same, meta-learning, SGD", replace(META, inner_optimizer="sgd"), names="language-model"
    ),
}


@dataclass(frozen=True)
class Inputs:
    """What all recipes share."""

    dataset: Path
    titles: Path
    names: dict[str, Path]
    pretrained: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--encoder", type=Path, required=True, help="see encoder_folder")
    parser.add_argument(
        "--language-model-names", type=Path, help="names file of `generate`, see benchmarks/local_llm.sh"
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    for name in arguments.recipes:
        if RECIPES[name].names == "language-model" and arguments.language_model_names is None:
            parser.error(f"recipe {name} needs --language-model-names, or leave it out of --recipes")
    inputs = prepare(arguments.source, arguments.work, arguments.encoder, arguments.language_model_names)
    measured: dict[str, list[list[Result]]] = {name: [] for name in arguments.recipes}
    for seed in arguments.seeds:
        for name in arguments.recipes:
            folder = arguments.work / "runs" / f"{name}-{seed}"
            measured[name].append(measure(RECIPES[name], seed, folder, inputs))
    print_table(measured)
    print_validation(arguments.work / "runs", arguments.recipes, arguments.seeds)


def prepare(source: Path, work: Path, encoder: Path, language_model_names: Path | None = None) -> Inputs:
    """Make what all recipes share, as far as it is not there."""
    work.mkdir(parents=True, exist_ok=True)
    names = {"neighbours": work / "names.npz"}
    inputs = Inputs(work / "dataset", work / "titles.npy", names, work / "pretrained.npz")
    if not inputs.dataset.exists():
        ingest(source, inputs.dataset, settings=IngestSettings(domains=("food", "kitchen")))
    if not inputs.titles.exists():
        embed(inputs.dataset, encoder, inputs.titles)
    if not names["neighbours"].exists():
        written = work / "names.jsonl"
        neighbours(inputs.dataset, written, overwrite=True)
        embed_names(written, inputs.dataset, names["neighbours"], encoder=None, titles=inputs.titles)
    if language_model_names is not None:
        names["language-model"] = work / "names-language-model.npz"
        embed_names(
            language_model_names,
            inputs.dataset,
            names["language-model"],
            encoder=encoder,
            titles=inputs.titles,
            overwrite=True,
        )
    if not inputs.pretrained.exists():
        settings = PretrainSettings(loss="sampled-softmax", text_initialization=True, patience=5)
        pretrain(inputs.dataset, inputs.titles, inputs.pretrained, settings)
    return inputs


def measure(recipe: Recipe, seed: int, folder: Path, inputs: Inputs) -> list[Result]:
    """Train, export and measure one run; what was measured is kept in ``test.json``."""
    kept = folder / "test.json"
    if kept.exists():
        return [_result(r) for r in json.loads(kept.read_text(encoding="utf-8"))]
    needs_pretraining = recipe.names is not None or recipe.settings.pretrained_items
    train(
        inputs.dataset,
        folder / "run",
        replace(recipe.settings, seed=seed),
        text_embeddings=inputs.titles if recipe.from_text else None,
        names=None if recipe.names is None else inputs.names[recipe.names],
        pretrained=inputs.pretrained if needs_pretraining else None,
        resume=True,
    )
    export(
        folder / "run",
        folder / "bundle",
        pretrained=inputs.pretrained,
        text_embeddings=inputs.titles,
        overwrite=True,
    )
    data = load_dataset(inputs.dataset)
    model, answers = open_model(folder / "bundle", data), open_answers(folder / "bundle")
    results = evaluate(*model, data, answers=answers)
    kept.write_text(json.dumps([asdict(r) for r in results]), encoding="utf-8")
    return results


def _result(value: dict[str, Any]) -> Result:
    return Result(**{**value, "hr": tuple(value["hr"]), "ndcg": tuple(value["ndcg"])})


def print_table(measured: dict[str, list[list[Result]]]) -> None:
    """For both protocols, a line for every recipe, of the model alone and of its bundle with the mix."""
    for protocol in ("sampled", "full"):
        print("among 999 negatives" if protocol == "sampled" else "\namong the whole domain")
        print(f"{'HR@10 +- / NDCG@10':<44}{'all: A':>21}{'all: B':>21}{'cold: A':>21}{'cold: B':>21}")
        for name, seeds in measured.items():
            mixed = any(r.scored_by == "bundle" for results in seeds for r in results)
            for by in ("model", "bundle") if mixed else ("model",):
                label = RECIPES[name].label if by == "model" else "    the same with its mix"
                print(f"{label:<44}" + "".join(f"{cell:>21}" for cell in _cells(seeds, protocol, by)))


def print_validation(runs: Path, recipes: Sequence[str], seeds: Sequence[int]) -> None:
    """Mean of both domains' validation HR@10 at the epoch taken, without pseudo items at request time."""
    print("\nvalidation HR@10, mean of both domains")
    for name in recipes:
        best = []
        for seed in seeds:
            lines = (runs / f"{name}-{seed}" / "run" / "metrics.jsonl").read_text(encoding="utf-8")
            best.append(max(sum(json.loads(line)["hr10"]) / 2 for line in lines.splitlines()))
        mean, spread = mean_and_spread(best)
        print(f"{RECIPES[name].label:<44}{mean:>13.4f} {spread:.4f}")


def _cells(seeds: list[list[Result]], protocol: str, by: str) -> list[str]:
    """Target domain A and B of all users, then of cold cross-domain ones."""
    # a bundle that adds nothing to its model's scores is measured once
    chosen = [
        [r for r in results if r.protocol == protocol and r.scored_by == by]
        or [r for r in results if r.protocol == protocol]
        for results in seeds
    ]
    cells = []
    for same in zip(*chosen, strict=True):
        hr10, spread = mean_and_spread([r.hr10 for r in same])
        ndcg10, _ = mean_and_spread([r.ndcg10 for r in same])
        cells.append(f"{hr10:.3f} {spread:.3f} / {ndcg10:.3f}")
    return cells


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and the largest distance of a value from it."""
    mean = sum(values) / len(values)
    return mean, max(abs(value - mean) for value in values)


if __name__ == "__main__":
    main()
