from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_tools import title_map as module
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.title_map import choose_weighing, fit_title_map, principal_components
from llmcdsr_tools.train.training_run import TrainResult


@pytest.fixture(scope="module")
def text() -> Any:
    """Titles of the small world: neighbours in its two circles are alike; the last of each says nothing."""
    rng = np.random.default_rng(2)
    angles = np.concatenate([np.arange(30) / 30, np.arange(36) / 36]) * 2 * np.pi
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    made = circle @ rng.normal(size=(2, 9)) + 0.05 * rng.normal(size=(66, 9)) + rng.normal(size=9)
    made[[29, 65]] = 0
    return made.astype(np.float32)


def test_principal_components_are_those_of_the_singular_values(text: Any) -> None:
    components = principal_components(text)
    assert components.shape == (10, 9)
    titled = text[text.any(axis=1)].astype(np.float64)
    placed = titled @ components[:-1] + components[-1]
    np.testing.assert_allclose(placed.mean(axis=0), 0, atol=1e-5)
    _, values, rows = np.linalg.svd(titled - titled.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.linalg.norm(placed, axis=0), values, rtol=1e-3, atol=1e-4)
    for component, row in zip(components[:-1].T, rows, strict=True):
        assert component[np.abs(component).argmax()] > 0
        np.testing.assert_allclose(abs(component @ row), 1, atol=1e-4)
    assert principal_components(np.zeros((3, 4), np.float32)).shape == (5, 4)


def naive_hits(rank: int, n_items: int) -> float:
    """Chance that fewer than 10 of the drawn negatives are ahead, draw by draw counted."""
    others = n_items - 1  # fewer than 999: all are drawn
    assert others < 999
    return float(rank < 10)


def test_the_choice_is_the_best_of_a_loop(
    small_world: Any, small_run: TrainResult, text: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All by hand: tenths, neighbours, vectors, ranks."""
    monkeypatch.setattr(module, "SHARPNESS", (2.0, 20.0))
    monkeypatch.setattr(module, "SCALES", (0.5, 1.0, 2.0))
    monkeypatch.setattr(module, "N_NEIGHBOURS", 3)
    data = small_world.data
    parameters, _ = load_model(small_run.run / "best.npz")
    table = parameters.item_embedding
    backend = NumpyBackend(parameters)
    found = fit_title_map(data, text, backend, table)
    rng = np.random.default_rng([0, 6])
    for domain, chosen in zip(data.catalogue.domains, found.weighings, strict=True):
        titled = [row for row in range(domain.start, domain.stop) if text[row - 1].any()]
        fold_of = {row: i % 10 for i, row in enumerate(rng.permutation(titled).tolist())}
        directions = found.directions.astype(np.float64) / 127
        merit: dict[tuple[float, float], list[list[float]]] = {}
        for history in data.valid:
            for place in range(1, len(history)):
                target = int(history[place])
                if target not in fold_of:
                    continue
                user = backend.represent([history[:place]])[0].astype(np.float64)
                for kind, fold in enumerate((fold_of[target], (fold_of[target] - 1) % 10)):
                    for sharpness in (2.0, 20.0):
                        scores = {row: user @ table[row] for row in range(domain.start, domain.stop)}
                        made = {}
                        for row in (r for r in fold_of if fold_of[r] == fold):
                            known = [r for r in fold_of if fold_of[r] != fold]
                            known = sorted(known, key=lambda r: -(directions[r] @ directions[row]))[:3]
                            weights = [math.exp(sharpness * (directions[r] @ directions[row])) for r in known]
                            vectors = [w * table[r] for w, r in zip(weights, known, strict=True)]
                            made[row] = float(user @ (sum(vectors) / sum(weights)))
                        for scale in (0.5, 1.0, 2.0):
                            new = {**scores, **{row: scale * score for row, score in made.items()}}
                            rank = sum(new[row] >= new[target] for row in new) - 1
                            merit.setdefault((sharpness, scale), [[], []])[kind].append(
                                naive_hits(rank, domain.n_items)
                            )
        means = {key: (np.mean(new), np.mean(old)) for key, (new, old) in merit.items()}
        best = max(0.1 * new + 0.9 * old for new, old in means.values())
        new, old = means[chosen.sharpness, chosen.scale]
        assert 0.1 * new + 0.9 * old == pytest.approx(best, abs=2e-3)
        assert chosen.validation["hr10_new"] == pytest.approx(new, abs=5e-3)
        assert chosen.validation["hr10_others"] == pytest.approx(old, abs=5e-3)
        assert chosen.validation["n_places"] == len(merit[chosen.sharpness, chosen.scale][0])


def test_without_places_nothing_is_chosen(small_world: Any, small_run: TrainResult, text: Any) -> None:
    parameters, _ = load_model(small_run.run / "best.npz")
    data = replace(small_world.data, valid=Histories.from_lists([], []))
    found = fit_title_map(data, text, NumpyBackend(parameters), parameters.item_embedding)
    assert [w.validation for w in found.weighings] == [{"n_places": 0}] * 2
    untitled = np.zeros((67, 9), np.int8)
    chosen = choose_weighing(
        small_world.data,
        untitled,
        NumpyBackend(parameters),
        parameters.item_embedding,
        data.catalogue.domains[0],
        np.random.default_rng(0),
    )
    assert chosen.validation == {"n_places": 0}


def test_exported_with_text_embeddings(small_run: TrainResult, text: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "titles.npy", text)
    export(small_run.run, tmp_path / "bundle", text_embeddings=tmp_path / "titles.npy")
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.recall is None
    assert bundle.new_items is not None
    assert np.array_equal(np.flatnonzero(~bundle.new_items.directions.any(axis=1)), [0, 30, 66])
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "## New items" in card
    for domain, weighing in zip(("food", "tools"), bundle.new_items.weighings, strict=True):
        hr10 = weighing.validation["hr10_new"]
        assert (
            f"- new items of {domain}: sharpness {weighing.sharpness:g}, scale {weighing.scale:g}. HR" in card
        )
        assert f"that played new ones {hr10:.4f}" in card
    # an item with the title of another is next to it
    grown = Recommender.load(tmp_path / "bundle").add_items([NewItem("twin", "food", "food 7", text[7])])
    assert grown.similar("twin", 1)[0].id in ("f6", "f7", "f8")
