from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.bundle.folder import ONNX, read_bundle, write_bundle
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.pseudo import PseudoChoice, PseudoSetting
from llmcdsr_tools.dataset import Histories
from llmcdsr_tools.evaluation.official import evaluate, open_model
from llmcdsr_tools.export.stage import export
from llmcdsr_tools.fit.measures import KINDS, kind_of, measure, measure_kinds, read_measures, write_measures
from llmcdsr_tools.pretrain.stage import PretrainSettings, pretrain
from llmcdsr_tools.train.stage import TrainResult


@pytest.fixture(scope="module")
def mixed(small_world: Any) -> Any:
    """Test users of every kind, some with a history too short to rank."""
    whole = [h.tolist() for h in small_world.data.test]
    food = [[r for r in h if r <= 30] for h in whole[:20]]
    crossing = [[r for r in h if r <= 30] + [31 + n] for n, h in enumerate(whole[20:32])]
    lists = [*whole, *food, *crossing, [4], []]
    return replace(small_world.data, test=Histories.from_lists(lists, [str(n) for n in range(len(lists))]))


def test_measures_of_a_run(small_world: Any, small_run: TrainResult) -> None:
    found = measure(small_run.run, small_world.folder, seed=3)
    backend, table = open_model(small_run.run, small_world.data)
    assert list(found.test) == evaluate(backend, table, small_world.data, split="test", seed=3)
    assert list(found.valid) == evaluate(backend, table, small_world.data, split="valid", seed=3)
    assert list(found.kinds) == measure_kinds(backend, table, small_world.data, 3)


def test_kinds_add_up_to_all_users(mixed: Any, small_run: TrainResult) -> None:
    backend, table = open_model(small_run.run, mixed)
    kinds = measure_kinds(backend, table, mixed, 5)
    everyone = [
        r for r in evaluate(backend, table, mixed, seed=5, groups=("all",)) if r.protocol == "sampled"
    ]
    for whole in everyone:
        parts = [k for k in kinds if k.domain == whole.domain]
        assert [k.kind for k in parts] == list(KINDS)
        assert sum(k.n_users for k in parts) == whole.n_users
        for name in ("hr10", "ndcg10"):
            total = sum(k.n_users * getattr(k, name) for k in parts if k.n_users)
            assert total / whole.n_users == pytest.approx(getattr(whole, name), abs=1e-12)
    counts = {(k.kind, k.domain): k.n_users for k in kinds}
    assert counts["target domain only", "food"] == 20
    assert counts["other domain only", "tools"] >= 12
    assert counts["target domain only", "tools"] == 0


def test_the_kind_of_a_user_by_hand(mixed: Any) -> None:
    food, tools = mixed.catalogue.domains
    for history, of_food, of_tools in (
        ([1, 30], "target domain only", "other domain only"),
        ([31, 66], "other domain only", "target domain only"),
        ([30, 31], "both domains", "both domains"),
    ):
        assert kind_of(np.array(history), food) == of_food
        assert kind_of(np.array(history), tools) == of_tools


def test_a_bundle_is_measured_as_it_answers(small_world: Any, small_run: TrainResult, tmp_path: Path) -> None:
    titles, pretrained = tmp_path / "titles.npy", tmp_path / "pretrained.npz"
    np.save(titles, np.random.default_rng(0).normal(size=(66, 5)).astype(np.float32))
    settings = PretrainSettings(hidden=4, n_blocks=1, max_length=10, n_epochs=1)
    pretrain(small_world.folder, titles, pretrained, settings)
    export(small_run.run, tmp_path / "off", pretrained=pretrained, text_embeddings=titles)
    bundle = read_bundle(tmp_path / "off")
    found = {}
    for name, setting in (("off", PseudoSetting()), ("auto", PseudoSetting("fuse", weight=100.0))):
        changed = replace(bundle, pseudo=(PseudoChoice(auto=setting),) * 2)
        write_bundle(
            changed,
            tmp_path / name,
            onnx_model=(tmp_path / "off" / ONNX).read_bytes(),
            model_card="",
            overwrite=True,
        )
        found[name] = measure(tmp_path / name, small_world.folder)
    assert {r.pseudo for r in found["off"].test} == {"off"}
    assert [r for r in found["auto"].test if r.pseudo == "off"] == list(found["off"].test)
    used = [r for r in found["auto"].test if r.pseudo == "auto" and r.group == "cold"]
    assert [r.ndcg for r in used] != [r.ndcg for r in found["off"].test if r.group == "cold"]
    # those whom pseudo items are for, and no others, fare otherwise
    for off, auto in zip(found["off"].kinds, found["auto"].kinds, strict=True):
        if off.n_users:
            assert (off.ndcg10 == auto.ndcg10) == (off.kind != "other domain only")


def test_they_are_read_as_they_were_written(
    mixed: Any, small_world: Any, small_run: TrainResult, tmp_path: Path
) -> None:
    found = measure(small_run.run, small_world.folder)
    none = replace(found.kinds[0], n_users=0, hr10=math.nan, ndcg10=math.nan)
    nothing = replace(found.test[0], hr=(math.nan,) * 4, ndcg=(math.nan,) * 4)
    write_measures(tmp_path / "m.json", replace(found, kinds=(none, *found.kinds), test=(nothing,)))
    assert "NaN" not in (tmp_path / "m.json").read_text()  # which JSON does not know
    again = read_measures(tmp_path / "m.json")
    assert again.valid == found.valid
    assert again.kinds[1:] == found.kinds
    assert math.isnan(again.kinds[0].hr10)
    assert math.isnan(again.test[0].hr10)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"test": [{}], "valid": [], "kinds": []})])
def test_damaged_files_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(DataError, match=r"m\.json: cannot be read as measures"):
        read_measures(tmp_path / "m.json")
