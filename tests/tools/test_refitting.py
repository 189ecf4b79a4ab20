"""A run trained again on all histories: the second source is an ordinary run on a data set of all of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import TrainingError, UsageError
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.data.dataset import Histories, Positions
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.evaluation.model_evaluation import evaluate
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.refitting import refit
from llmcdsr_tools.run_folder import best_model, read_metrics
from llmcdsr_tools.train.members import train_members
from llmcdsr_tools.train.training_run import Observer, TrainResult, train


class Interrupt(Observer):
    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        if (epoch, step) == (2, 3):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def bundle(small_run: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refit") / "bundle"
    export(small_run.run, folder)
    return folder


@pytest.fixture(scope="module")
def refitted(small_run: TrainResult, bundle: Path) -> Path:
    """The run refitted, interrupted once."""
    output, work = bundle.with_name("refitted"), bundle.with_name("work")
    with pytest.raises(KeyboardInterrupt):
        refit(bundle, small_run.run, output, work=work, observers=lambda _: Interrupt())
    assert not output.exists()
    refit(bundle, small_run.run, output, work=work)
    return output


def test_it_is_the_model_of_all_histories(
    small_world: Any, small_run: TrainResult, refitted: Path, tmp_path: Path
) -> None:
    data = small_world.data
    parts = (data.test, data.valid, data.train)
    histories = [rows.tolist() for part in parts for rows in part]
    everyone = Histories.from_lists(histories, [user for part in parts for user in part.users])
    save_dataset(replace(data, train=everyone), tmp_path / "dataset")
    settings = replace(small_world.settings, n_epochs=small_run.best_epoch, patience=100)
    settings = replace(settings, batch_size=small_world.settings.for_data(data).batch_size)
    run = train(tmp_path / "dataset", tmp_path / "run", settings).run
    found = read_bundle(refitted)
    last = load_model(refitted.with_name("work") / "best.npz")[0]
    with np.load(run / "checkpoint.npz") as checkpoint:
        np.testing.assert_array_equal(found.item_vectors[1:], checkpoint["item_average"][1:])
        np.testing.assert_array_equal(last.dense, checkpoint["dense_average"])
    expected = np.bincount(np.concatenate([part.rows for part in parts]), minlength=len(data.catalogue) + 1)
    np.testing.assert_array_equal(found.item_counts, expected)


def test_what_validation_chose_stays(small_run: TrainResult, bundle: Path, refitted: Path) -> None:
    before, after = read_bundle(bundle), read_bundle(refitted)
    assert after.mix == before.mix
    assert {k: v for k, v in after.training.items() if k != "refitted"} == before.training
    assert after.training["refitted"]["histories"] == 400
    assert not np.array_equal(after.item_vectors, before.item_vectors)
    metrics = read_metrics(refitted.with_name("work"))
    assert len(metrics) == small_run.best_epoch
    assert all(np.isnan(m.merits).all() for m in metrics)
    card = (refitted / "README.md").read_text(encoding="utf-8")
    assert "trained again on all 400 histories" in card
    assert card.index("## Refitted") < card.index("## Metrics")
    assert card.replace(card[card.index("## Refitted") : card.index("## Metrics")], "") == (
        bundle / "README.md"
    ).read_text(encoding="utf-8")
    assert len(Recommender.load(refitted).recommend(["f1"], domain="tools", k=3)) == 3


def test_nothing_is_measured_on_what_it_has_seen(small_world: Any, refitted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="refitted on the held-out histories"):
        evaluate([refitted], small_world.folder)
    data = small_world.data
    tomorrow = Histories.from_lists([rows[2:].tolist() for rows in data.test], data.test.users)
    save_dataset(replace(data, test=tomorrow), tmp_path / "tomorrow")
    assert evaluate([refitted], tmp_path / "tomorrow").measures


@pytest.mark.slow
def test_members_and_their_student(small_world: Any, tmp_path: Path) -> None:
    settings = replace(small_world.settings, n_epochs=2)
    train_members(small_world.folder, tmp_path / "run", settings, 2, distill=True)
    members = tmp_path / "members"
    members.mkdir()
    for number in (1, 2):
        shutil.copytree(tmp_path / "run" / f"member-{number}", members / f"member-{number}")
    for run, n in ((tmp_path / "run", 1), (members, 2)):
        export(run, tmp_path / f"bundle-{n}")
        refit(tmp_path / f"bundle-{n}", run, tmp_path / f"refitted-{n}")
        assert len(read_bundle(tmp_path / f"refitted-{n}").parameters.members) == n
    assert best_model(members / "refit" / "member-2").exists()
    assert best_model(tmp_path / "run" / "refit").exists()
    shutil.rmtree(tmp_path / "run" / "member-2")
    with pytest.raises(TrainingError, match="the members that it has learned from are not those"):
        refit(tmp_path / "bundle-1", tmp_path / "run", tmp_path / "again")


def test_refused(
    small_world: Any, small_run: TrainResult, bundle: Path, refitted: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is refitted already"):
        refit(refitted, small_run.run, tmp_path / "out")
    other = train(small_world.folder, tmp_path / "run", replace(small_world.settings, n_epochs=1, seed=5))
    with pytest.raises(TrainingError, match="run, its item vectors are others"):
        refit(bundle, other.run, tmp_path / "out")
    np.save(tmp_path / "titles.npy", np.ones((len(small_world.data.catalogue), 4), np.float32))
    with pytest.raises(TrainingError, match="text embeddings: the run started without"):
        refit(bundle, small_run.run, tmp_path / "out", text_embeddings=tmp_path / "titles.npy")
    assert not (tmp_path / "out").exists()
    assert not (small_run.run / "refit").exists()


@pytest.mark.parametrize("positions", ["last", "every"])
def test_export_tells_of_it_where_the_split_is_by_time(
    small_world: Any, tmp_path: Path, positions: Positions
) -> None:
    save_dataset(replace(small_world.data, test_positions=positions), tmp_path / "dataset")
    run = train(tmp_path / "dataset", tmp_path / "run", replace(small_world.settings, n_epochs=1)).run
    done = CliRunner().invoke(cli, ["export", str(run), "-o", str(tmp_path / "bundle")])
    assert done.exit_code == 0
    assert (f"llmcdsr refit {tmp_path / 'bundle'} {run} -o BUNDLE" in done.stderr) == (positions == "every")


def test_the_command(small_run: TrainResult, bundle: Path, refitted: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run.run, tmp_path / "run"))
    words = ["refit", str(bundle), str(run), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "epoch 1: loss" in done.stderr
    assert "validation" not in done.stderr
    assert (tmp_path / "out" / "config.json").read_bytes() == (refitted / "config.json").read_bytes()
    assert CliRunner().invoke(cli, words).exit_code == 1
