"""Members are the runs that they would be alone, and a bundle answers with the mean of their scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import SettingsError, TrainingError
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.ensemble import SASRecEnsemble
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.evaluation.model_evaluation import evaluate
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.train.members import train_members
from llmcdsr_tools.train.training import Observer
from llmcdsr_tools.train.training_run import train


class Interrupt(Observer):
    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        if (epoch, step) == (2, 3):
            raise KeyboardInterrupt


def interrupt_second(member: int) -> Observer:
    return Interrupt() if member == 2 else Observer()


@pytest.fixture(scope="module")
def members(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members, the second stopped in the middle and resumed, in processes of their own."""
    run = tmp_path_factory.mktemp("members") / "run"
    settings = replace(small_world.settings, n_epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train_members(small_world.folder, run, settings, 2, observers=interrupt_second)
    train_members(small_world.folder, run, settings, 2, resume=True, threads=2)
    return run


def test_members_are_runs_with_seeds_of_their_own(small_world: Any, members: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        settings = replace(small_world.settings, n_epochs=2, seed=number - 1)
        alone = train(small_world.folder, tmp_path / str(number), settings).run
        for name in ("best.npz", "checkpoint.npz"):
            assert (members / f"member-{number}" / name).read_bytes() == (alone / name).read_bytes()


def test_a_bundle_of_members(small_world: Any, members: Path, tmp_path: Path) -> None:
    export(members, tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert isinstance(bundle.parameters, SASRecEnsemble)
    assert len(bundle.training["epochs"]) == 2
    histories = [h[:-1] for h in small_world.data.test][:20]
    users = NumpyBackend(bundle.parameters).represent(histories)
    scores = []
    for number in (1, 2):
        model, _ = load_model(members / f"member-{number}" / "best.npz")
        scores.append(NumpyBackend(model).represent(histories) @ model.item_embedding[1:].T)
    np.testing.assert_allclose(
        users @ bundle.item_vectors[1:].T, np.mean(scores, axis=0), rtol=1e-4, atol=1e-5
    )
    assert (
        "The mean of the scores of 2 members, each SASRec" in (tmp_path / "bundle" / "README.md").read_text()
    )
    run, exported = (
        evaluate([folder], small_world.folder, "valid").find("model alone", "all", "food")
        or evaluate([folder], small_world.folder, "valid").find("model", "all", "food")
        for folder in (members, tmp_path / "bundle")
    )
    assert run is not None
    assert exported is not None
    assert run.ndcg10 == pytest.approx(exported.ndcg10, abs=1e-3)


def test_members_that_do_not_go_together(small_world: Any, members: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    settings = replace(small_world.settings, n_epochs=1)
    train(small_world.folder, other / "member-1", settings)
    train(small_world.folder, other / "member-2", replace(settings, dropout=0.3))
    with pytest.raises(TrainingError, match=r"member-2: was trained otherwise than .*member-1"):
        export(other, tmp_path / "bundle")
    with pytest.raises(SettingsError, match="members must be at least 1, found 0"):
        train_members(small_world.folder, other, settings, 0)
