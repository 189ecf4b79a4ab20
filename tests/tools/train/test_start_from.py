"""Training that goes on from an earlier model: rows follow items, whatever the catalogue has become."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import SettingsError, TrainingError
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.checkpoint import Checkpoint, load_model, save_checkpoint
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.evaluation.model_evaluation import evaluate
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.train.members import train_members
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.starting_model import Start
from llmcdsr_tools.train.training import Observer
from llmcdsr_tools.train.training_run import TrainResult, train
from llmcdsr_tools.word_vectors import WordEncoder, word_vectors

N_A, N_B, E = 30, 36, 9


@pytest.fixture(scope="module")
def text() -> Any:
    """Titles of the small world: neighbours in its two circles are alike."""
    rng = np.random.default_rng(2)
    angles = np.concatenate([np.arange(N_A) / N_A, np.arange(N_B) / N_B]) * 2 * np.pi
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (circle @ rng.normal(size=(2, E)) + 0.05 * rng.normal(size=(66, E))).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(small_run: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run as a bundle that cannot make vectors of new items."""
    folder = tmp_path_factory.mktemp("start") / "bundle"
    export(small_run.run, folder)
    return folder


@pytest.fixture(scope="module")
def titled_bundle(small_run: TrainResult, text: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a title map."""
    folder = tmp_path_factory.mktemp("start") / "titled"
    np.save(folder.parent / "text.npy", text)
    export(small_run.run, folder, text_embeddings=folder.parent / "text.npy")
    return folder


@pytest.fixture
def settings(small_world: Any) -> TrainSettings:
    """One epoch in which nothing moves; sizes are left to the model."""
    sizes = {"hidden": 64, "n_heads": 1, "max_length": 0}
    return replace(small_world.settings, **sizes, n_epochs=1, learning_rate=1e-12, average_epochs=0.0)


class Record(Observer):
    def started(self, start: Start) -> None:
        self.start = start


def changed(
    data: Dataset, domains: Sequence[tuple[str, list[int]]], titles: dict[int, tuple[str, str]]
) -> Dataset:
    """The data set with the items of these old rows, and new ones, whose ids and titles are given by row."""
    order = [row for _, rows in domains for row in rows]
    old = data.catalogue
    known = [(old.ids[row - 1], old.titles[row - 1]) if row not in titles else titles[row] for row in order]
    ids, names = zip(*known, strict=True)
    catalogue = Catalogue.from_sizes(ids, names, [n for n, _ in domains], [len(r) for _, r in domains])
    new_row = {row: place for place, row in enumerate(order, 1)}
    splits = {}
    for split in ("train", "valid", "test"):
        histories = [[new_row[r] for r in h.tolist() if r in new_row] for h in data.split(split)]  # type: ignore[arg-type]
        kept = [h for h in histories if len(h) > 1]
        splits[split] = Histories.from_lists(kept, [f"{split}{n}" for n in range(len(kept))])
    return Dataset(catalogue, **splits)


# of food 3 to 30 backwards and a new one among them, of tools all but the last, with two new ones
GROWN = [("tools", [70, *range(31, 66), 71]), ("food", [*range(30, 15, -1), 72, *range(15, 2, -1)])]
NEW = {70: ("t-new", "tool 5"), 71: ("t-untitled", ""), 72: ("f-new", "food 20")}


@pytest.fixture(scope="module")
def grown(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    data = changed(small_world.data, GROWN, NEW)
    folder = tmp_path_factory.mktemp("grown") / "dataset"
    save_dataset(data, folder)
    return data, folder


def started(dataset: Path, run: Path, settings: TrainSettings, start: Path, **more: Any) -> SASRecParameters:
    """What training starts from, as the first epoch leaves it where nothing moves."""
    train(dataset, run, settings, start_from=start, **more)
    return load_model(run / "best.npz")[0]


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_first_validation_is_that_of_the_model(
    small_world: Any, small_run: TrainResult, bundle: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    expected = evaluate([small_run.run], small_world.folder, "valid")
    for start in (small_run.run, bundle):
        result = train(small_world.folder, tmp_path / start.name, settings, start_from=start)
        for domain, ndcg10, hr10 in zip(
            small_world.data.catalogue.domains, result.epochs[0].ndcg10, result.epochs[0].hr10, strict=True
        ):
            direct = expected.find("model", "all", domain.name)
            assert direct is not None
            assert (ndcg10, hr10) == pytest.approx((direct.ndcg10, direct.hr10), abs=1e-9)
    before = load_model(small_run.run / "best.npz")[0]
    after = load_model(tmp_path / bundle.name / "best.npz")[0]
    assert after.config == replace(before.config, dropout=settings.dropout)
    np.testing.assert_allclose(after.item_embedding[1:], before.item_embedding[1:], atol=1e-7)
    np.testing.assert_allclose(after.dense, before.dense, atol=1e-7)
    # without a start, it is another model
    anew = train(small_world.folder, tmp_path / "anew", replace(settings, hidden=16))
    assert anew.best_merit < result.best_merit - 0.2


def test_rows_follow_ids(
    small_run: TrainResult,
    bundle: Path,
    grown: tuple[Dataset, Path],
    settings: TrainSettings,
    tmp_path: Path,
) -> None:
    before = load_model(small_run.run / "best.npz")[0]
    old = {f"f{n}": 1 + n for n in range(N_A)} | {f"t{n}": 1 + N_A + n for n in range(N_B)}
    data, folder = grown
    record = Record()
    after = started(folder, tmp_path / "run", settings, bundle, observer=record)
    assert (record.start.n_kept, record.start.n_new, record.start.n_gone) == (63, 3, 3)
    for row, item in enumerate(data.catalogue.ids, 1):
        if item in old:
            found, expected = after.item_embedding[row], before.item_embedding[old[item]]
            np.testing.assert_allclose(found, expected, atol=1e-7, err_msg=item)
    np.testing.assert_allclose(after.dense, before.dense, atol=1e-7)
    # a title that says nothing: the mean of its domain; another's title: its vector
    row = data.catalogue.row_of_id["t-untitled"]
    np.testing.assert_allclose(after.item_embedding[row], before.item_embedding[31:].mean(axis=0), atol=1e-6)
    for new, like in (("t-new", "t5"), ("f-new", "f20")):
        vector = after.item_embedding[data.catalogue.row_of_id[new]]
        of_domain = [item for item in old if item[0] == new[0]]
        cosines = {item: cosine(vector, before.item_embedding[old[item]]) for item in of_domain}
        assert max(cosines, key=lambda item: cosines[item]) == like
        assert cosines[like] > 0.9
    # the run gives the same, new items included
    again = started(folder, tmp_path / "again", settings, small_run.run)
    np.testing.assert_allclose(again.item_embedding, after.item_embedding, atol=1e-7)


def test_new_items_are_those_of_add_items(
    titled_bundle: Path,
    small_run: TrainResult,
    grown: tuple[Dataset, Path],
    text: Any,
    settings: TrainSettings,
    tmp_path: Path,
) -> None:
    data, folder = grown
    like = {70: text[35], 71: text[40] + text[41], 72: text[19]}
    matrix = np.stack([like[row] if row in like else text[row - 1] for _, rows in GROWN for row in rows])
    np.save(tmp_path / "text.npy", matrix)
    after = started(folder, tmp_path / "run", settings, titled_bundle, text_embeddings=tmp_path / "text.npy")
    items = [NewItem(NEW[row][0], "food" if row == 72 else "tools", "", like[row]) for row in NEW]
    added = Recommender.load(titled_bundle).add_items(items)
    for item in items:
        expected = added.bundle.item_vectors[added.items.row(item.id)]
        found = after.item_embedding[data.catalogue.row_of_id[item.id]]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    # text of another encoder, of the same size: the map of the bundle would find neighbours at random
    turned, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(E, E)))
    np.save(tmp_path / "turned.npy", (matrix @ turned).astype(np.float32))
    other = {"text_embeddings": tmp_path / "turned.npy"}
    by_bundle = started(folder, tmp_path / "turned", settings, titled_bundle, **other)
    by_run = started(folder, tmp_path / "turned-run", settings, small_run.run, **other)
    np.testing.assert_allclose(by_bundle.item_embedding, by_run.item_embedding, atol=1e-7)
    before = load_model(small_run.run / "best.npz")[0]
    row = data.catalogue.row_of_id["f-new"]
    assert cosine(by_bundle.item_embedding[row], before.item_embedding[20]) > 0.5


def test_a_bundle_of_word_vectors_needs_no_text(
    small_world: Any,
    small_run: TrainResult,
    grown: tuple[Dataset, Path],
    settings: TrainSettings,
    tmp_path: Path,
) -> None:
    word_vectors(small_world.folder, tmp_path / "words.npy")
    export(small_run.run, tmp_path / "bundle", text_embeddings=tmp_path / "words.npy")
    data, folder = grown
    after = started(folder, tmp_path / "run", settings, tmp_path / "bundle")
    encoder = WordEncoder.of_dataset(small_world.folder)
    added = Recommender.load(tmp_path / "bundle", encoder=encoder).add_items(
        [NewItem("t-new", "tools", "tool 5"), NewItem("f-new", "food", "food 20")]
    )
    for item in ("t-new", "f-new"):
        expected = added.bundle.item_vectors[added.items.row(item)]
        found = after.item_embedding[data.catalogue.row_of_id[item]]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_new_domain_and_one_that_is_gone(
    small_world: Any, small_run: TrainResult, bundle: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    """Tools are renamed: their items count as new, made of all that was there; food keeps its rows."""
    domains = [("food", [*range(1, 31)]), ("hardware", [*range(31, 67)])]
    data = changed(small_world.data, domains, {66: ("t35", "")})
    save_dataset(data, tmp_path / "dataset")
    record = Record()
    after = started(tmp_path / "dataset", tmp_path / "run", settings, bundle, observer=record)
    assert (record.start.n_kept, record.start.n_new, record.start.n_gone) == (30, 36, 36)
    before = load_model(small_run.run / "best.npz")[0].item_embedding
    np.testing.assert_allclose(after.item_embedding[1:31], before[1:31], atol=1e-7)
    # "tool 20" has a word in common with "food 20" alone
    assert cosine(after.item_embedding[31 + 20], before[1 + 20]) > 0.9
    # one without a title: the mean of all
    np.testing.assert_allclose(after.item_embedding[66], before[1:].mean(axis=0), atol=1e-6)
    nothing = changed(small_world.data, [("food", [*range(31, 67)]), ("tools", [*range(1, 31)])], {})
    save_dataset(nothing, tmp_path / "nothing")  # the ids are there, in the other domain each
    message = r"none of its items \(domains 'food', 'tools'\) is in the data set \(domains 'food', 'tools'\)"
    with pytest.raises(TrainingError, match=message):
        train(tmp_path / "nothing", tmp_path / "none", settings, start_from=bundle)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("size", "value", "own"),
    [("hidden", 32, 16), ("n_blocks", 3, 2), ("n_heads", 4, 2), ("max_length", 20, 10)],
)
def test_sizes_that_are_given_must_be_those_of_the_model(
    small_world: Any,
    bundle: Path,
    settings: TrainSettings,
    tmp_path: Path,
    size: str,
    value: int,
    own: int,
) -> None:
    wrong = replace(settings, **{size: value})
    with pytest.raises(SettingsError, match=rf"{size} is {value}, but the model .*bundle, has {own}; leave"):
        train(small_world.folder, tmp_path / "run", wrong, start_from=bundle)
    assert not (tmp_path / "run").exists()
    # at the command line, a default that is given counts, too
    default = {"hidden": 64, "n_blocks": 4, "n_heads": 1, "max_length": 50}[size]
    option = "--" + size.removeprefix("n_").replace("_", "-")
    arguments = ["train", str(small_world.folder), "-o", str(tmp_path / "run"), "--start-from", str(bundle)]
    failed = CliRunner().invoke(cli, [*arguments, option, str(default)])
    assert failed.exit_code == 2
    assert f"{size} is {default}, but the model to start from, {bundle}, has {own}" in failed.output


def test_sizes_that_agree_may_be_given(
    small_world: Any, bundle: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    same = replace(settings, hidden=16, n_heads=2, max_length=10)
    for number, chosen in enumerate((settings, same)):
        train(small_world.folder, tmp_path / str(number), chosen, start_from=bundle)
    for name in ("run.json", "best.npz", "checkpoint.npz"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    header = json.loads((tmp_path / "0" / "run.json").read_text())
    assert [header["settings"][name] for name in ("hidden", "n_blocks", "n_heads", "max_length")] == [
        16,
        2,
        2,
        10,
    ]


class Interrupt(Observer):
    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        if (epoch, step) == (2, 3):
            raise KeyboardInterrupt


def test_a_resumed_run_has_the_same_bytes(
    small_world: Any, small_run: TrainResult, bundle: Path, grown: tuple[Dataset, Path], tmp_path: Path
) -> None:
    settings = replace(small_world.settings, n_epochs=3)
    _, folder = grown
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(folder, whole, settings, start_from=bundle)
    with pytest.raises(KeyboardInterrupt):
        train(folder, run, settings, start_from=bundle, observer=Interrupt())
    for other in (None, small_run.run):
        with pytest.raises(TrainingError, match="started with other parameters to start from, or none"):
            train(folder, run, settings, start_from=other, resume=True)
    train(folder, run, settings, start_from=bundle, resume=True)
    for name in ("run.json", "best.npz", "best_1.npz", "best_2.npz", "checkpoint.npz", "curves.svg"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    recorded = json.loads((run / "run.json").read_text())["start_from_sha256"]
    assert recorded == sha256((bundle / "config.json").read_bytes()).hexdigest()
    # it has learned, and from there: the first epoch is far above that of a run that starts anew
    anew = train(folder, tmp_path / "anew", replace(settings, n_epochs=1))
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert np.mean(first["ndcg10"]) > anew.best_merit + 0.1


@pytest.mark.slow
def test_members_start_from_their_own(small_world: Any, settings: TrainSettings, tmp_path: Path) -> None:
    once = replace(small_world.settings, n_epochs=1)
    train_members(small_world.folder, tmp_path / "old", once, 2)
    export(tmp_path / "old", tmp_path / "bundle")
    before = [load_model(tmp_path / "old" / f"member-{n}" / "best.npz")[0] for n in (1, 2)]
    for start in ("old", "bundle"):
        run = tmp_path / f"from-{start}"
        train_members(small_world.folder, run, settings, 2, start_from=tmp_path / start, threads=2)
        for number, expected in enumerate(before, 1):
            found = load_model(run / f"member-{number}" / "best.npz")[0]
            np.testing.assert_allclose(found.item_embedding[1:], expected.item_embedding[1:], atol=1e-7)
            np.testing.assert_allclose(found.dense, expected.dense, rtol=1e-6, atol=1e-7)
        export(run, tmp_path / f"bundle-{start}")  # members with one start are of one kind
        for wrong, message in ((3, "has 2 members, 3 to train"), (1, "has 2 members, 1 to train")):
            with pytest.raises(TrainingError, match=message):
                train_members(
                    small_world.folder, tmp_path / "wrong", settings, wrong, start_from=tmp_path / start
                )
    assert not (tmp_path / "wrong").exists()
    start = tmp_path / "old" / "member-1"
    with pytest.raises(TrainingError, match="member-1: has one model, 2 to train"):
        train_members(small_world.folder, tmp_path / "wrong", settings, 2, start_from=start)
    card = (tmp_path / "bundle-old" / "README.md").read_text()
    assert "an earlier model" in card


def test_items_start_in_one_place(small_world: Any, bundle: Path, tmp_path: Path) -> None:
    pretrained = tmp_path / "pretrained.npz"
    shapes = {"projection_1": (16, E), "projection_2": (16, E), "items_1": (N_A, 16), "items_2": (N_B, 16)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_checkpoint(pretrained, Checkpoint(arrays, {"domains": [{}, {}]}))
    settings = replace(small_world.settings, pretrained_items=True)
    with pytest.raises(SettingsError, match="and no text embeddings or model to start from"):
        train(small_world.folder, tmp_path / "run", settings, pretrained=pretrained, start_from=bundle)
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_is_refused(
    small_world: Any, run: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for start in (tmp_path / "file", tmp_path / "empty", tmp_path / "none", small_world.folder):
        message = r"is neither a bundle \(config\.json\) nor a training run \(run\.json\)"
        with pytest.raises(TrainingError, match=message):
            train(small_world.folder, tmp_path / "run-2", settings, start_from=start)
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**header, "dataset_sha256": "0" * 64}))
    with pytest.raises(TrainingError, match=r"is not the data set .* any more; start from the bundle"):
        train(small_world.folder, tmp_path / "run-2", settings, start_from=run)
    (run / "run.json").write_text(json.dumps(header))
    (run / "best.npz").unlink()
    with pytest.raises(TrainingError, match=r"best\.npz: no such file; the run has not finished an epoch"):
        train(small_world.folder, tmp_path / "run-2", settings, start_from=run)
    assert not (tmp_path / "run-2").exists()


def test_the_command_tells_what_became_of_the_items(
    bundle: Path, grown: tuple[Dataset, Path], tmp_path: Path
) -> None:
    """With the official recipe, too, whose length of 50 is no size that somebody gave."""
    arguments = ["train", str(grown[1]), "-o", str(tmp_path / "run"), "--start-from", str(bundle)]
    done = CliRunner().invoke(
        cli, [*arguments, "--recipe", "official", "--epochs", "1", "--batch-size", "32"]
    )
    assert done.exit_code == 0, done.output
    assert f"start from {bundle}: 63 items as they were, 3 new, 3 gone\n" in done.output
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (header["settings"]["loss"], header["settings"]["max_length"]) == ("bce", 10)
    assert all(math.isfinite(v) for v in json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["hr10"])
