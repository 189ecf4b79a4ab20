"""Bundles and what Python answers for them: the second source of the browser's tests.

    python answers.py MODELS OUT

writes a folder for every bundle and OUT/cases.json, a list of requests with their answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.bundle.folder import ITEM_VECTORS, ONNX, Bundle, read_bundle, write_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.ensemble import SASRecEnsemble
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.model.recall_network import unit_rows
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.text.title_neighbours import LEVELS, TitleMap, Weighing
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
N_CASES |= {"mixed": 60, "members": 20, "one": 40, "three": 150}
MIXES = (
    DomainMix(ExpertWeights(2.0, 1.0, 0.5), POPULAR, SIMILAR, exclude_seen=False, offset=0.3),
    DomainMix(ExpertWeights(1.5, 0.0, 1.0), replace(SIMILAR, next=0.5), BOTH, offset=-0.5, offset_last=1.5),
)
THIRD = DomainMix(
    ExpertWeights(repeat=2.0),
    ExpertWeights(next=1.0, popular=0.3, similar=1.5),
    source="companions",
    n_recalled=3,
    offset=0.8,
    offset_last=-0.4,
)
ALONE = DomainMix(MIXES[0].warm, ExpertWeights(next=1.0, popular=0.6), exclude_seen=False, offset=0.3)


def small_bundle(sizes: Mapping[str, int]) -> Bundle:
    """Random weights, histories up to 6, two heads, items without a title or a vector, titles twice."""
    rng = np.random.default_rng(7)
    config = SASRecConfig(sum(sizes.values()), hidden=8, n_blocks=2, n_heads=2, max_length=6, dropout=0.0)
    parameters = SASRecParameters.initial(config, rng)
    parameters.dense += rng.normal(0, 0.3, parameters.dense.shape).astype(np.float32)
    parameters.item_embedding[1:] = rng.normal(size=(config.n_items, config.hidden))
    ids = [f"{name[0]}{n}" for name, size in sizes.items() for n in range(size)]
    titles = [f"Café {name} No. {n // 2}" for name, size in sizes.items() for n in range(size)]
    catalogue = Catalogue.from_sizes(ids, titles, tuple(sizes), tuple(sizes.values()))
    firsts = [domain.start for domain in catalogue.domains]
    counts = np.concatenate([[0], rng.integers(0, 9, config.n_items)])  # with ties
    for domain in catalogue.domains[1:]:
        titles[domain.stop - 5 : domain.stop - 1] = titles[1:5]  # the same titles in all domains
        titles[domain.start + 2] = "Twice"  # and in all but the first
    for row in firsts:
        titles[row - 1] = ""
    for domain in catalogue.domains[1:2]:
        counts[domain.start : domain.stop] = 0
    counts[-1] = 3
    bundle = Bundle(catalogue, parameters, counts, {})
    if len(sizes) == 1:
        return bundle
    names = rng.normal(size=(len(sizes) - 1, config.n_items + 1, 5)).astype(np.float32)
    names[:, [0, *firsts]] = 0
    items = unit_rows(rng.normal(size=(config.n_items + 1, 5)).astype(np.float32))
    items[[0, firsts[1] + 1]] = 0
    poolers = rng.normal(size=(len(sizes), 5)).astype(np.float32)
    network = RecallNetwork(names, items, poolers, None, (1.5, 2.5, 2.0)[: len(sizes)])
    return replace(bundle, recall=network, mix=(*RECALLED["inserted"], THIRD)[: len(sizes)])


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
    """The shipped bundle, and others: without recall, other mixes, added items, small ones, members."""
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
    mixed = replace(demo, mix=MIXES, next_counts=some_counts(demo.catalogue))
    folders["mixed"] = out / "mixed"
    write_bundle(mixed, folders["mixed"], onnx_model=onnx_model, model_card="", overwrite=True)
    small = small_bundle({"food": 12, "kitchen": 18})
    others = [SASRecParameters.initial(small.parameters.config, np.random.default_rng(n)) for n in (1, 2)]
    ensemble = SASRecEnsemble.of([*small.parameters.members, *others])
    made = {"small": small, "members": replace(with_mix(small, MIXES), parameters=ensemble)}
    made["one"] = with_mix(small_bundle({"food": 20}), (ALONE,))
    # of the second domain alone are items of the history ranked by default
    three = small_bundle({"food": 12, "kitchen": 9, "garden": 14})
    made["three"] = with_mix(three, (MIXES[1], MIXES[0], THIRD))
    for name, bundle in made.items():
        folders[name] = out / name
        model = build_onnx(bundle.parameters, ITEM_VECTORS, 128)  # behind the header that np.save writes
        write_bundle(bundle, folders[name], onnx_model=model, model_card="", overwrite=True)
    return folders


def with_mix(bundle: Bundle, mix: Mixes) -> Bundle:
    """The bundle with a mix and the counts that it weighs."""
    return replace(bundle, mix=mix, next_counts=some_counts(bundle.catalogue))


def request(recommender: Recommender, rng: np.random.Generator) -> dict[str, Any]:
    """A random request, as the page's `recommend` takes it."""
    ids = recommender.items.ids
    domains = recommender.items.domains
    chosen = rng.permutation(len(domains))[: rng.integers(1, len(domains) + 1)]
    of = [item for n in chosen for item in ids[domains[n].start - 1 : domains[n].stop - 1]]
    length = int(rng.choice([0, 1, 2, *rng.integers(3, 61, 4)]))
    history = [str(item) for item in rng.choice(of, length)]
    if rng.random() < 0.2:  # perhaps the only one of its domain, and too old for the recommender
        history.insert(0, str(rng.choice(ids)))
    if rng.random() < 0.2:
        history.insert(int(rng.integers(len(history) + 1)), "no-such-item")
    domain: str | list[str] | None = str(rng.choice(recommender.domains))
    kind = rng.choice(["one", "several", "all"], p=[0.7, 0.2, 0.1])
    if kind == "several":
        several = rng.permutation(recommender.domains)[: rng.integers(1, len(domains) + 1)]
        domain = [str(name) for name in several]
    elif kind == "all":
        domain = None
    pseudo: str | list[str] = str(rng.choice(["auto", "off"], p=[0.75, 0.25]))
    if kind == "one" and recommender.bundle.recall is not None and rng.random() < 0.4:
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
