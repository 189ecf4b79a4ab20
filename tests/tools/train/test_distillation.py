"""A student comes closer to its members' scores than a model alone, and resumes to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import SettingsError, TrainingError
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.ensemble import Model
from llmcdsr_tools.checkpoint import load_members
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.train.members import train_members
from llmcdsr_tools.train.training_run import Observer, train

EPOCHS = 3


class Interrupt(Observer):
    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        if (epoch, step) == (2, 3):
            raise KeyboardInterrupt


def interrupt_student(member: int) -> Observer:
    return Observer() if member else Interrupt()


@pytest.fixture(scope="module")
def distilled(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members and their student, which is stopped in the middle and resumed."""
    run = tmp_path_factory.mktemp("distilled") / "run"
    settings = replace(small_world.settings, n_epochs=EPOCHS)
    with pytest.raises(KeyboardInterrupt):
        train_members(small_world.folder, run, settings, 2, observers=interrupt_student, distill=True)
    results = train_members(small_world.folder, run, settings, 2, resume=True, distill=True)
    assert [result.run for result in results] == [run / "member-1", run / "member-2", run]
    return run


def probabilities(model: Model, histories: list[Any]) -> Any:
    scores = NumpyBackend(model).represent(histories) @ model.item_embedding[1:].T
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_a_student_is_closer_to_its_teacher(small_world: Any, distilled: Path) -> None:
    histories = [h[:-1] for h in small_world.data.test if len(h) > 1]
    members = [distilled / f"member-{number}" / "best.npz" for number in (1, 2)]
    (student, _), (alone, _), (teacher, _) = map(
        load_members, ([distilled / "best.npz"], members[:1], members)
    )
    taught = probabilities(teacher, histories)
    student_distance, alone_distance = (
        np.abs(probabilities(model, histories) - taught).sum(axis=1).mean() for model in (student, alone)
    )
    assert student_distance < alone_distance


def test_a_resumed_student_is_the_same(small_world: Any, distilled: Path, tmp_path: Path) -> None:
    settings = replace(small_world.settings, n_epochs=EPOCHS)
    teachers = [distilled / "member-1", distilled / "member-2"]
    train(small_world.folder, tmp_path / "whole", settings, teachers=teachers)
    for name in ("best.npz", "checkpoint.npz"):
        assert (tmp_path / "whole" / name).read_bytes() == (distilled / name).read_bytes()


def test_the_bundle_is_the_student(distilled: Path, tmp_path: Path) -> None:
    export(distilled, tmp_path / "bundle")
    student, _ = load_members([distilled / "best.npz"])
    np.testing.assert_array_equal(read_bundle(tmp_path / "bundle").parameters.dense, student.dense)


def test_what_does_not_go_together(small_world: Any, distilled: Path, tmp_path: Path) -> None:
    settings, teachers = replace(small_world.settings, n_epochs=EPOCHS), [distilled / "member-1"]
    with pytest.raises(SettingsError, match="a teacher softens the labels of the sampled softmax"):
        train(small_world.folder, tmp_path / "run", replace(settings, loss="bce"), teachers=teachers)
    with pytest.raises(SettingsError, match="max_length is 7, expected 10, the teacher's"):
        train(small_world.folder, tmp_path / "run", replace(settings, max_length=7), teachers=teachers)
    with pytest.raises(TrainingError, match="the run was started with other teacher, or none"):
        train(small_world.folder, distilled, settings, teachers=teachers, resume=True)
    with pytest.raises(TrainingError, match="no such file"):
        train(small_world.folder, tmp_path / "run", settings, teachers=[tmp_path / "nowhere"])
    assert not (tmp_path / "run").exists()


def test_distill_needs_members(small_world: Any, tmp_path: Path) -> None:
    found = CliRunner().invoke(
        cli, ["train", str(small_world.folder), "-o", str(tmp_path / "r"), "--distill"]
    )
    assert found.exit_code == 2
    assert "--distill needs two --members or more" in found.output


def test_a_student_begins_anew(small_world: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give start_from or distill, not both"):
        train_members(
            small_world.folder, tmp_path / "run", small_world.settings, 2, distill=True, start_from=tmp_path
        )
    assert not (tmp_path / "run").exists()
