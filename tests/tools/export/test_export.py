from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import BundleError, DataError, LlmcdsrError, TrainingError, UsageError
from llmcdsr_tools.checkpoint import load_model, save_model
from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.evaluation.comparison import verdicts
from llmcdsr_tools.evaluation.model_evaluation import BASELINES, evaluate
from llmcdsr_tools.evaluation.table import format_measures, format_repeats
from llmcdsr_tools.export import onnx_graph
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.train.training_run import TrainResult, train


@pytest.fixture(scope="module")
def exported(small_run: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    return folder, export(small_run.run, folder)


def test_the_bundle_is_the_best_model(
    exported: tuple[Path, list[Any]], small_run: TrainResult, small_world: Any
) -> None:
    bundle = read_bundle(exported[0])
    model, description = load_model(small_run.run / "best.npz")
    assert np.array_equal(bundle.parameters.dense, model.dense)
    assert np.array_equal(bundle.item_vectors[1:], model.item_embedding[1:])
    assert list(bundle.catalogue.ids) == list(small_world.data.catalogue.ids)
    assert bundle.catalogue.domains == small_world.data.catalogue.domains
    counts = [0] * 67
    for history in small_world.data.train:
        for row in history.tolist():
            counts[row] += 1
    assert bundle.item_counts.tolist() == counts
    assert bundle.training["epochs"] == [description["epoch"]] == [small_run.best_epoch]
    assert bundle.training["settings"]["hidden"] == 16


def test_the_measures_are_those_of_the_bundle(exported: tuple[Path, Any], small_world: Any) -> None:
    folder, measured = exported
    again = evaluate([folder], small_world.folder, "test")
    for found, expected in zip(measured.measures, again.measures, strict=True):
        assert (found.scorer, found.group, found.domain) == (expected.scorer, expected.group, expected.domain)
        assert found.n_targets == expected.n_targets
        assert found.hr10 == pytest.approx(expected.hr10, abs=0.05, nan_ok=True)  # a near tie may turn
    card = (folder / "README.md").read_text()
    assert format_measures(measured.measures) in card
    assert format_repeats(measured.measures) in card
    for said in verdicts(measured, "model", BASELINES):
        assert f"In {said}." in card
    assert "# Cross-domain recommender: food and tools" in card
    assert "sampled-softmax" in card
    assert "understate" not in card


def test_the_mix_is_learned_and_told(exported: tuple[Path, Any], small_world: Any) -> None:
    bundle = read_bundle(exported[0])
    card = (exported[0] / "README.md").read_text()
    for domain, mix in zip(small_world.data.catalogue.domains, bundle.mix, strict=True):
        assert mix.validation["seen"]
        assert f"- {domain.name}: {mix}. " in card
    weighed = any(w.next for mix in bundle.mix for w in (mix.warm, mix.cold))
    assert (bundle.next_counts is not None) == weighed


def test_config_is_strict_json_though_a_group_has_no_users(small_world: Any, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    test = Histories.from_lists([[1, 2, 3]], ["u"])  # no target in tools, nobody is cold
    save_dataset(replace(small_world.data, test=test), tmp_path / "d")
    train(tmp_path / "d", tmp_path / "run", replace(small_world.settings, n_epochs=1))
    export(tmp_path / "run", tmp_path / "bundle")
    config = json.loads((tmp_path / "bundle" / "config.json").read_text(), parse_constant=refuse)
    measures = config["training"]["test_measures"]
    found = {(m["group"], m["domain"]): m for m in measures if m["scorer"] == "model"}
    assert found["cold", "food"]["hr10"] is None
    assert found["all", "food"]["n_users"] == 1
    assert found["all", "food"]["hr10"] in (0, 1)


def test_the_bundle_recommends_what_was_learned(exported: tuple[Path, list[Any]]) -> None:
    recommender = Recommender.load(exported[0])
    found = recommender.recommend(["f3", "f4", "f5"], domain="food", k=3)
    assert "f6" in [r.id for r in found]


def test_the_bundles_graph_loads_without_us(exported: tuple[Path, list[Any]]) -> None:
    session = onnxruntime.InferenceSession(
        str(exported[0] / "recommender.onnx"), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"item_rows": np.array([[0, 1, 2]])})
    assert found.shape == (1, 16)


def test_the_best_model_of_one_domain(small_run: TrainResult, tmp_path: Path) -> None:
    for number, best_for in enumerate(("food", "tools"), 1):
        export(small_run.run, tmp_path / best_for, best_for=best_for)
        _, description = load_model(small_run.run / f"best_{number}.npz")
        training = read_bundle(tmp_path / best_for).training
        assert (training["epochs"], training["best_for"]) == ([description["epoch"]], best_for)


def test_overwriting_must_be_asked_for(run: Path, exported: tuple[Path, list[Any]], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported[0], tmp_path / "bundle"))
    with pytest.raises(DataError, match="exists already"):
        export(run, bundle)
    export(run, bundle, overwrite=True)
    read_bundle(bundle)
    (bundle / "notes.txt").write_text("mine")
    for folder, reason in ((bundle, "holds notes.txt"), (run, "holds "), (run.parent, "holds ")):
        before = sorted(folder.rglob("*"))
        with pytest.raises(DataError, match=f"{reason}.*, so it is not a bundle and not replaced"):
            export(run, folder, overwrite=True)
        assert sorted(folder.rglob("*")) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        export(run, tmp_path / "file", overwrite=True)


def test_a_data_set_that_moved_or_changed(run: Path, small_world: Any, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(small_world.folder, tmp_path / "moved"))
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**header, "dataset": str(tmp_path / "gone")}))
    with pytest.raises(TrainingError, match=r"its data set is not at .*gone any more; name its folder"):
        export(run, tmp_path / "bundle")
    export(run, tmp_path / "bundle", dataset=moved)
    (moved / "test_users.json").write_text("[]")
    with pytest.raises(TrainingError, match="is not the data set that the run was trained on"):
        export(run, tmp_path / "other", dataset=moved)
    assert not (tmp_path / "other").exists()


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "best_1.npz").unlink()
    with pytest.raises(TrainingError, match=r"best_1\.npz: no such file"):
        export(run, tmp_path / "bundle", best_for="food")
    with pytest.raises(UsageError, match="no domain is named 'a', expected one of 'mean', 'food', 'tools'"):
        export(run, tmp_path / "bundle", best_for="a")
    with pytest.raises(TrainingError, match=r"run\.json: no such file; is .* the folder of a training run\?"):
        export(tmp_path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_graph_that_disagrees_is_not_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = onnx_graph.build_onnx

    def spoiled(parameters: Any, location: str, offset: int) -> bytes:
        other = parameters.copy()
        other.norm_bias[:] += 0.001
        return whole(other, location, offset)

    monkeypatch.setattr(onnx_graph, "build_onnx", spoiled)
    with pytest.raises(TrainingError, match=r"differs from the NumPy model by \d"):
        export(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_graph_against_the_standard_is_not_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime takes a graph without a name; the standard, and what checks against it, does not."""
    whole = onnx_graph.build_onnx

    def nameless(parameters: Any, location: str, offset: int) -> bytes:
        model = onnx.load_from_string(whole(parameters, location, offset))
        model.graph.ClearField("name")
        return bytes(model.SerializeToString())

    monkeypatch.setattr(onnx_graph, "build_onnx", nameless)
    with pytest.raises(onnx.checker.ValidationError, match="name"):
        export(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_model_with_a_nan_is_not_published(run: Path, tmp_path: Path) -> None:
    model, description = load_model(run / "best.npz")
    model.item_embedding[5] = np.nan
    save_model(run / "best.npz", model, {"epoch": description["epoch"]})
    with pytest.raises(LlmcdsrError, match=r"not finite|differs"):
        export(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_exported_bundle_can_be_moved(exported: tuple[Path, list[Any]], tmp_path: Path) -> None:
    moved = Path(shutil.copytree(exported[0], tmp_path / "elsewhere"))
    assert Recommender.load(moved).recommend(["t1"], k=1)
    (moved / "dense.npy").write_bytes((moved / "dense.npy").read_bytes()[:-4])
    with pytest.raises(BundleError, match=r"dense\.npy"):
        read_bundle(moved)
