"""The recall network of an exported bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_tools.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint, save_model
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.evaluation.model_evaluation import BASELINES, evaluate
from llmcdsr_tools.export import bundle_export
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.export.recall import merged, recall_networks
from llmcdsr_tools.mix.learning import Learned
from llmcdsr_tools.run_folder import file_hash


@pytest.fixture(scope="module")
def recall_inputs(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file like that of pre-training, hidden size 5, and its text embeddings; item f2 has no title."""
    folder = tmp_path_factory.mktemp("recall_inputs")
    rng = np.random.default_rng(9)
    text = rng.normal(size=(66, 7)).astype(np.float32)
    text[2] = 0
    np.save(folder / "titles.npy", text)
    shapes = {"projection_1": (5, 7), "projection_2": (5, 7), "items_1": (30, 5), "items_2": (36, 5)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    description = {
        "text_embeddings_sha256": file_hash(folder / "titles.npy"),
        "domains": [{"name": "food"}, {"name": "tools"}],
    }
    save_checkpoint(folder / "pretrained.npz", Checkpoint(arrays, description))
    return folder / "pretrained.npz", folder / "titles.npy"


def with_poolers(run: Path) -> np.ndarray[Any, Any]:
    """Put poolers into the run's best model."""
    poolers = np.random.default_rng(4).normal(size=(2, 5)).astype(np.float32)
    model, description = load_model(run / "best.npz")
    save_model(run / "best.npz", model, {"epoch": description["epoch"]}, poolers)
    return poolers


def test_the_recall_network_is_exported(
    run: Path, tmp_path: Path, recall_inputs: tuple[Path, Path], small_world: Any
) -> None:
    poolers = with_poolers(run)
    pretrained, titles = recall_inputs
    export(run, tmp_path / "bundle", pretrained=pretrained, text_embeddings=titles)
    bundle = read_bundle(tmp_path / "bundle")
    found, text = bundle.recall, np.load(titles).astype(float)
    assert found is not None
    assert found.projections is not None
    source = load_checkpoint(pretrained).arrays
    projected = np.zeros((67, 5))
    assert np.array_equal(found.poolers, poolers)
    for row in range(1, 67):
        own, other, place = (1, 2, row - 1) if row <= 30 else (2, 1, row - 31)
        vector = source[f"items_{own}"][place].astype(float)
        np.testing.assert_allclose(found.items[row], vector / np.sqrt(vector @ vector), atol=1e-6)
        projected[row] = source[f"projection_{other}"].astype(float) @ text[row - 1]
    for (own, other), length in zip(((31, 67), (1, 31)), found.title_lengths, strict=True):
        norms = np.sqrt((projected[own:other] ** 2).sum(axis=1))
        assert length == pytest.approx(norms[norms > 0].mean(), rel=1e-5)
    by_source = {n.source: n.network.names for n in recall_networks(small_world.data, *recall_inputs)}
    np.testing.assert_allclose(by_source["titles"], projected[None], atol=1e-5)
    assert not projected[3].any()
    for mix, start, stop in ((bundle.mix[0], 31, 67), (bundle.mix[1], 1, 31)):
        assert np.array_equal(found.names[0, start:stop], by_source[mix.source][0, start:stop])
    for index in (0, 1):
        assert np.array_equal(found.projections[index], source[f"projection_{index + 1}"])
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "pseudo items of it are recalled" in card
    for domain, mix in zip(("food", "tools"), bundle.mix, strict=True):
        (line,) = (line for line in card.splitlines() if line.startswith(f"- {domain}: {mix}. "))
        for kind in ("cold", "named"):
            measured = mix.validation[kind]
            if measured["n_users"] < 50:
                assert "there were too few users" in line
            else:
                assert f"{measured['gain']:+.4f}, standard error" in line
    answer = Recommender.load(tmp_path / "bundle").recommend(
        ["f3", "f4"], domain="tools", pseudo=["t3"], explain=True
    )
    assert answer.explanation is not None
    named = bundle.mix[1].named
    said = answer.explanation.setting
    assert ("insert" in said, "cosine" in said) == (bool(named.inserted), bool(named.similar))


def test_what_items_of_three_domains_say(small_world: Any, tmp_path: Path) -> None:
    """Titles in the space of each other domain, companions and both likewise; each mix takes its source."""
    sizes = (30, 10, 26)
    catalogue = Catalogue.from_sizes(small_world.data.catalogue.ids, [""] * 66, "abc", sizes)
    data = replace(small_world.data, catalogue=catalogue)
    rng = np.random.default_rng(3)
    text = rng.normal(size=(66, 7)).astype(np.float32)
    np.save(tmp_path / "titles.npy", text)
    arrays = {f"projection_{n}": rng.normal(size=(5, 7)).astype(np.float32) for n in (1, 2, 3)}
    arrays |= {f"items_{n}": rng.normal(size=(s, 5)).astype(np.float32) for n, s in enumerate(sizes, 1)}
    save_checkpoint(tmp_path / "pretrained.npz", Checkpoint(arrays, {"domains": [{}, {}, {}]}))
    networks = recall_networks(data, tmp_path / "pretrained.npz", tmp_path / "titles.npy")
    by_source = {n.source: n.network for n in networks}
    said = by_source["titles"].names
    lengths: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for row in range(1, 67):
        own = catalogue.domains.index(catalogue.domain_of_row(row))
        for place, target in enumerate(t for t in range(3) if t != own):
            vector = arrays[f"projection_{target + 1}"].astype(float) @ text[row - 1]
            np.testing.assert_allclose(said[place, row], vector, atol=1e-5)
            lengths[target].append(float(np.linalg.norm(vector)))
    for target, expected in lengths.items():
        assert by_source["titles"].title_lengths[target] == pytest.approx(np.mean(expected), rel=1e-5)
    mixes = tuple(DomainMix(source=source) for source in ("both", "titles", "companions"))
    network = merged(data, networks, mixes)
    for row in range(1, 67):
        own = catalogue.domains.index(catalogue.domain_of_row(row))
        for place, target in enumerate(t for t in range(3) if t != own):
            expected_names = by_source[mixes[target].source].names[place, row]
            assert np.array_equal(network.names[place, row], expected_names)


def test_poolers_are_zero_where_none_were_trained(
    run: Path, tmp_path: Path, recall_inputs: tuple[Path, Path]
) -> None:
    export(run, tmp_path / "bundle", pretrained=recall_inputs[0], text_embeddings=recall_inputs[1])
    found = read_bundle(tmp_path / "bundle").recall
    assert found is not None
    assert not found.poolers.any()


def test_pseudo_items_that_are_weighed_are_in_card_and_metrics(
    run: Path,
    tmp_path: Path,
    recall_inputs: tuple[Path, Path],
    small_world: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cold = ExpertWeights(similar=50.0)
    found = Learned(cold, 90, 40, 0.2, 0.3, 0.1, 0.02)
    mixes = (
        DomainMix(cold=cold, source="companions", validation={"cold": found.summary()}),
        DomainMix(
            validation={"cold": replace(found, ndcg10_model=float("nan"), ndcg10=float("nan")).summary()}
        ),
    )
    monkeypatch.setattr(bundle_export, "learn_mix", lambda *arguments: mixes)
    bundle = tmp_path / "bundle"
    results = export(run, bundle, pretrained=recall_inputs[0], text_embeddings=recall_inputs[1])
    model, alone = (results.ranked[name, "cold", "food"].rank for name in ("model", "model alone"))
    assert model.tolist() != alone.tolist()
    again = evaluate([bundle], small_world.folder)
    for name in ("model", "model alone"):
        expected = again.find(name, "cold", "food")
        found = results.find(name, "cold", "food")
        assert found is not None
        assert expected is not None
        assert found.hr10 == pytest.approx(expected.hr10, abs=0.05)  # a near tie may turn
    card = (bundle / "README.md").read_text()
    assert (
        "- food: model alone; without items of the domain model + similar 50 (recalled by companions)" in card
    )
    assert "without NDCG@10 0.2000 becomes 0.3000 (+0.1000, standard error 0.0200; 40 users)" in card
    assert "- tools: model alone; items of the history left out. " in card
    config = json.loads((bundle / "config.json").read_text())
    assert config["mix"][0]["cold"]["similar"] == 50
    scorers = {m["scorer"] for m in config["training"]["test_measures"]}
    assert scorers == {"model", "model alone", *BASELINES}


def test_recall_inputs_that_do_not_fit(run: Path, tmp_path: Path, recall_inputs: tuple[Path, Path]) -> None:
    pretrained, titles = recall_inputs
    out = tmp_path / "bundle"
    with pytest.raises(TrainingError, match="needs both the pre-training and its text embeddings"):
        export(run, out, pretrained=pretrained)
    np.save(tmp_path / "other.npy", np.load(titles) + 1)
    with pytest.raises(DataError, match=r"is not the text embeddings that .* was made with"):
        export(run, out, pretrained=pretrained, text_embeddings=tmp_path / "other.npy")
    with pytest.raises(DataError, match="cannot be read"):
        export(run, out, pretrained=tmp_path / "none.npz", text_embeddings=titles)
    model, description = load_model(run / "best.npz")
    save_model(run / "best.npz", model, {"epoch": description["epoch"]}, np.zeros((2, 4), np.float32))
    with pytest.raises(DataError, match=r"hidden size 5, but the run's poolers are \(2, 4\)"):
        export(run, out, pretrained=pretrained, text_embeddings=titles)
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**header, "pretrained_sha256": "0" * 64}))
    with pytest.raises(TrainingError, match=r"is not the pre-training that .* was trained with"):
        export(run, out, pretrained=pretrained, text_embeddings=titles)
    assert not out.exists()
    export(run, out)
    assert read_bundle(out).recall is None


def test_export_from_the_command_line(run: Path, tmp_path: Path, recall_inputs: tuple[Path, Path]) -> None:
    arguments = ["export", run, "-o", tmp_path / "bundle", "--pretrained", recall_inputs[0]]
    failed = CliRunner().invoke(cli, list(map(str, arguments)))
    assert (failed.exit_code, "needs both the pre-training" in failed.output) == (1, True)
    done = CliRunner().invoke(cli, [*map(str, arguments), "--text-embeddings", str(recall_inputs[1])])
    assert done.exit_code == 0, done.output
    assert read_bundle(tmp_path / "bundle").recall is not None
