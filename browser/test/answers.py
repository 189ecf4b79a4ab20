"""Bundles and what Python answers for them: the second source of the browser's tests.

    python answers.py MODELS OUT

writes a folder for every bundle and OUT/cases.json, a list of requests with their answers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.bundle.folder import ITEM_VECTORS, ONNX, Bundle, read_bundle, write_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.settings import DomainMix, ExpertWeights
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.reference.ensemble import SASRecEnsemble
from llmcdsr_lite.reference.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.reference.recall_network import unit_rows
from llmcdsr_lite.title_neighbours import LEVELS, TitleMap, Weighing
from llmcdsr_tools.export.onnx_graph import build_onnx

SIMILAR, INSERTED = ExpertWeights(similar=2.94), ExpertWeights(inserted=1.0)
BOTH = ExpertWeights(similar=6.45, inserted=0.4)
POPULAR = replace(BOTH, next=3.0, popular=0.6)
RECALLED = {
    "inserted": (
        DomainMix(cold=INSERTED, named=BOTH, n_recalled=7),
        DomainMix(cold=BOTH, named=INSERTED, source="companions", n_recalled=4),
    ),
    "similar": (
        DomainMix(cold=SIMILAR, named=BOTH, source="both", n_recalled=50),
        DomainMix(cold=BOTH, named=SIMILAR),
    ),
    # more than the recommender looks back on
    "crowded": (DomainMix(cold=INSERTED, n_recalled=60), DomainMix(cold=INSERTED, n_recalled=60)),
}
TIE = 1e-6
N_CASES = {"demo": 60, "plain": 20, "inserted": 40, "similar": 40, "crowded": 20, "small": 60, "grown": 30}
N_CASES |= {"mixed": 60, "members": 20}
MIXES = (
    DomainMix(ExpertWeights(2.0, 1.0, 0.5), POPULAR, SIMILAR, exclude_seen=False, offset=0.3),
    DomainMix(ExpertWeights(1.5, 0.0, 1.0), replace(SIMILAR, next=0.5), BOTH, offset=-0.5, offset_last=1.5),
)


def small_bundle() -> Bundle:
    """Random weights, histories up to 6, two heads, items without a title or a vector, titles twice."""
    n_food, n_kitchen = 12, 18
    rng = np.random.default_rng(7)
    config = SASRecConfig(n_food + n_kitchen, hidden=8, n_blocks=2, n_heads=2, max_length=6, dropout=0.0)
    parameters = SASRecParameters.initial(config, rng)
    parameters.dense += rng.normal(0, 0.3, parameters.dense.shape).astype(np.float32)
    parameters.item_embedding[1:] = rng.normal(size=(config.n_items, config.hidden))
    ids = [f"f{n}" for n in range(n_food)] + [f"k{n}" for n in range(n_kitchen)]
    titles = [f"Café beans No. {n}" for n in range(n_food)] + [f"Pan {n // 2}" for n in range(n_kitchen)]
    titles[0] = titles[n_food] = ""
    titles[n_food + 8 :] = titles[1:11]  # the same titles in both domains
    catalogue = Catalogue.from_sizes(ids, titles, ("food", "kitchen"), (n_food, n_kitchen))
    counts = np.concatenate([[0], rng.integers(0, 9, config.n_items)])  # with ties
    counts[n_food + 1 :] = 0
    counts[-1] = 3
    names, items = rng.normal(size=(2, config.n_items + 1, 5)).astype(np.float32)
    names[[0, 1, n_food + 1]] = 0
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[[0, n_food + 2]] = 0
    poolers = rng.normal(size=(2, 5)).astype(np.float32)
    network = RecallNetwork(names, items, poolers, None, (1.5, 2.5))
    return Bundle(catalogue, parameters, counts, {}, recall=network, mix=RECALLED["inserted"])


def write_grown(demo: Bundle, folder: Path, onnx_model: bytes) -> None:
    """The shipped model with items that were added later, and a longer item table."""
    rng = np.random.default_rng(3)
    directions = unit_rows(rng.normal(size=(len(demo.catalogue) + 1, 8)))
    directions[0] = 0
    components = rng.normal(size=(129, 8)).astype(np.float32)
    weighing = Weighing(10.0, 1.0)
    titles = TitleMap(components, np.rint(LEVELS * directions).astype(np.int8), (weighing, weighing))
    before = folder.with_name("before")
    bundle = replace(demo, new_items=titles, mix=RECALLED["similar"])
    write_bundle(bundle, before, onnx_model=onnx_model, model_card="", overwrite=True)
    names = [domain.name for domain in demo.catalogue.domains]
    new = [NewItem(f"new-{n}", names[n % 2], f"Novelty {n}", rng.normal(size=128)) for n in range(9)]
    Recommender.load(before).add_items(new).save(folder, overwrite=True)


def some_counts(catalogue: Catalogue) -> NextCounts:
    """Neighbours at random, about six of an item in each domain."""
    rng = np.random.default_rng(9)
    n_rows = len(catalogue) + 1
    sizes, rows = [], []
    for domain in catalogue.domains:
        for _ in range(n_rows):
            own = np.flatnonzero(rng.random(domain.n_items) < min(0.5, 6 / domain.n_items)) + domain.start
            sizes.append(len(own))
            rows.append(own)
    flat = np.concatenate(rows)
    weights = (rng.random(len(flat)) + 0.05).astype(np.float32)
    return NextCounts(np.concatenate([[0], np.cumsum(sizes)]), flat.astype(np.int32), weights)


def write_bundles(models: Path, out: Path) -> dict[str, Path]:
    """The shipped bundle, and others: without recall, other mixes, added items, a small one, members."""
    demo = read_bundle(models / "demo")
    onnx_model = (models / "demo" / ONNX).read_bytes()
    bundles = {"plain": replace(demo, recall=None, mix=(), next_counts=None)}
    bundles |= {name: replace(demo, mix=mix) for name, mix in RECALLED.items()}
    folders = {"demo": models / "demo"}
    for name, bundle in bundles.items():
        folders[name] = out / name
        write_bundle(bundle, folders[name], onnx_model=onnx_model, model_card="", overwrite=True)
    folders["grown"] = out / "grown"
    write_grown(demo, folders["grown"], onnx_model)
    small = small_bundle()
    folders["small"] = out / "small"
    small_model = build_onnx(small.parameters, ITEM_VECTORS, 128)  # behind the header that np.save writes
    write_bundle(small, folders["small"], onnx_model=small_model, model_card="", overwrite=True)
    mixed = replace(demo, mix=MIXES, next_counts=some_counts(demo.catalogue))
    folders["mixed"] = out / "mixed"
    write_bundle(mixed, folders["mixed"], onnx_model=onnx_model, model_card="", overwrite=True)
    others = [SASRecParameters.initial(small.parameters.config, np.random.default_rng(n)) for n in (1, 2)]
    ensemble = SASRecEnsemble.of([*small.parameters.members, *others])
    members = replace(small, parameters=ensemble, mix=MIXES, next_counts=some_counts(small.catalogue))
    folders["members"] = out / "members"
    onnx_members = build_onnx(ensemble, ITEM_VECTORS, 128)
    write_bundle(members, folders["members"], onnx_model=onnx_members, model_card="", overwrite=True)
    return folders


def request(recommender: Recommender, rng: np.random.Generator) -> dict[str, Any]:
    """A random request, as the page's `recommend` takes it."""
    ids = recommender.items.ids
    n_first = recommender.items.domains[0].n_items
    of = (ids[:n_first], ids[n_first:], ids)[rng.integers(3)]
    length = int(rng.choice([0, 1, 2, *rng.integers(3, 61, 4)]))
    history = [str(item) for item in rng.choice(of, length)]
    if rng.random() < 0.2:  # perhaps the only one of its domain, and too old for the recommender
        history.insert(0, str(rng.choice(ids)))
    if rng.random() < 0.2:
        history.insert(int(rng.integers(len(history) + 1)), "no-such-item")
    domain = [*recommender.domains, None][rng.choice(3, p=[0.4, 0.4, 0.2])]
    pseudo: str | list[str] = str(rng.choice(["auto", "off"], p=[0.75, 0.25]))
    if domain is not None and recommender.bundle.recall is not None and rng.random() < 0.4:
        names = [*rng.choice(ids, 3), *rng.choice(recommender.items.titles, 3)]
        named = [str(name) for name in names if name][: int(rng.integers(7))]
        pseudo = named or history[-3:]
        pseudo = [name for name in pseudo if name != "no-such-item"]
    k = int(rng.choice([1, 5, 10, 50, 2000]))
    exclude_seen = [True, False, None][rng.integers(3)]
    options = {"domain": domain, "k": k, "pseudo": pseudo, "excludeSeen": exclude_seen}
    return {"history": history, "options": {**options, "explain": bool(rng.random() < 0.7)}}


def answer(recommender: Recommender, asked: dict[str, Any]) -> dict[str, Any]:
    """What Python answers, by the names that JavaScript has for it."""
    options = {("exclude_seen" if name == "excludeSeen" else name): v for name, v in asked["options"].items()}
    found = recommender.recommend(asked["history"], **options)
    explanation = None
    if found.explanation is not None:
        explanation = {
            "setting": found.explanation.setting,
            "pseudo": [vars(item) for item in found.explanation.pseudo],
            "history": [vars(item) for item in found.explanation.history],
        }
    return {
        "items": [vars(item) for item in found],
        "unknownItems": list(found.unknown_items),
        "fallback": found.fallback,
        "explanation": explanation,
    }


def tied(recommender: Recommender, asked: dict[str, Any]) -> bool:
    """Whether inserted items are so alike that rounding decides which comes first."""
    found = answer(recommender, {**asked, "options": {**asked["options"], "explain": True}})["explanation"]
    similarities = [item["similarity"] for item in found["pseudo"]]
    return "insert" in found["setting"] and bool((np.abs(np.diff(similarities)) < TIE).any())


def main(models: Path, out: Path) -> None:
    """Write everything."""
    out.mkdir(parents=True, exist_ok=True)
    cases = []
    rng = np.random.default_rng(20)
    for name, folder in write_bundles(models, out).items():
        recommender = Recommender.load(folder)
        for _ in range(N_CASES[name]):
            asked = request(recommender, rng)
            while tied(recommender, asked):
                asked = request(recommender, rng)
            cases.append({"bundle": name, **asked, "answer": answer(recommender, asked)})
    (out / "cases.json").write_text(json.dumps(cases), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
