from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llmcdsr_lite.errors import DataError, TrainingError, UsageError
from llmcdsr_tools.run_folder import (
    EarlyStopping,
    EpochMetrics,
    RunHeader,
    best_model,
    best_names,
    file_hash,
    folder_hash,
    member_runs,
    open_run,
    read_metrics,
    read_run,
    write_metrics,
)

NAN = math.nan


def epoch(number: int, a: float, b: float) -> EpochMetrics:
    return EpochMetrics(number, 0.5, 0.1, (a, b), (0.0, 0.0), criterion="sampled-hr")


def test_early_stopping_by_hand() -> None:
    stopping = EarlyStopping.start(2)
    steps = [  # HR@10 of A and of B, what improves, whether patience 2 is over
        ((0.10, 0.30), ["best", "best_1", "best_2"], False),
        ((0.20, 0.10), ["best_1"], False),  # mean .15, below .20
        ((0.20, 0.25), ["best"], False),  # mean .225; equal to the best of A is no improvement
        ((0.05, 0.30), [], True),  # A was best at 2, B at 1
        ((0.05, 0.60), ["best", "best_2"], False),
        ((0.04, 0.60), [], False),  # A has not improved for four epochs, B for one
        ((0.03, 0.60), [], True),
    ]
    for number, ((a, b), improved, finished) in enumerate(steps, 1):
        assert stopping.update(epoch(number, a, b)) == improved, number
        assert stopping.finished(number, patience=2) is finished, number
    assert stopping.best == pytest.approx([0.325, 0.20, 0.60])
    assert stopping.best_epoch == [5, 2, 5]


def test_a_domain_without_validation_users_does_not_count() -> None:
    stopping = EarlyStopping.start(2)
    assert stopping.update(epoch(1, NAN, 0.2)) == ["best", "best_2"]
    assert stopping.update(epoch(2, NAN, 0.1)) == []
    assert not stopping.finished(2, patience=2)
    assert stopping.update(epoch(3, NAN, 0.1)) == []
    assert stopping.finished(3, patience=2)
    assert stopping.best_epoch == [1, 0, 1]
    assert epoch(1, NAN, 0.2).merit == 0.2
    assert epoch(1, 0.1, 0.2).merit == pytest.approx(0.15)


def test_the_merit_is_that_of_the_criterion() -> None:
    ndcg = EpochMetrics(1, 0.5, 0.1, (0.1, 0.2), (0.3, 0.5))
    assert (ndcg.merits, ndcg.merit_name) == ((0.3, 0.5), "NDCG@10")
    assert ndcg.merit == pytest.approx(0.4)
    sampled = replace(ndcg, criterion="sampled-hr")
    assert (sampled.merits, sampled.merit_name) == ((0.1, 0.2), "HR@10")


def test_members_of_a_run(tmp_path: Path) -> None:
    assert member_runs(tmp_path) == [tmp_path]
    for number in (1, 2, 10, 3, 4, 5, 6, 7, 8, 9):
        (tmp_path / f"member-{number}").mkdir()
    assert member_runs(tmp_path) == [tmp_path / f"member-{n}" for n in range(1, 11)]
    (tmp_path / "member-2").rmdir()
    with pytest.raises(TrainingError, match="holds member-1, member-3"):
        member_runs(tmp_path)


def test_an_hr_of_zero_is_better_than_nothing() -> None:
    stopping = EarlyStopping.start(2)
    assert stopping.update(epoch(1, 0.0, 0.0)) == ["best", "best_1", "best_2"]


def test_metrics_are_one_json_object_a_line(tmp_path: Path) -> None:
    done = [epoch(1, 0.25, 0.5), epoch(2, 0.5, 0.75)]
    write_metrics(tmp_path, done)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["hr10"] for line in lines] == [[0.25, 0.5], [0.5, 0.75]]
    assert [EpochMetrics.from_json(json.loads(line)) for line in lines] == done


def test_a_domain_without_users_is_null_in_the_metrics(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    done = [epoch(1, NAN, 0.5), replace(epoch(2, 0.5, NAN), seconds=NAN, ndcg10=(NAN, 0.25), meta_loss=0.5)]
    write_metrics(tmp_path, done)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=refuse) for line in lines)
    assert (first["hr10"], second["hr10"]) == ([None, 0.5], [0.5, None])
    assert (second["seconds"], second["ndcg10"], second["meta_loss"]) == (None, [None, 0.25], 0.5)
    assert repr(read_metrics(tmp_path)) == repr(done)  # repr: nan equals nan


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"epoch": 1}', "1", "\xff"])
def test_damaged_metrics_are_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be read as metrics"):
        read_metrics(tmp_path)


def test_a_best_model_that_a_run_lacks_is_told_of(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    open_run(run, header_of(dataset), resume=False)
    with pytest.raises(TrainingError, match=r"best\.npz: no such file; the run has not finished an epoch$"):
        best_model(run, "mean")
    message = r"best_2\.npz: no such file; .* or no validation user has a target in domain 'kitchen'"
    with pytest.raises(TrainingError, match=message):
        best_model(run, "kitchen")
    with pytest.raises(UsageError, match="no domain is named 'b', expected one of 'mean', 'food', 'kitchen'"):
        best_model(run, "b")


def test_best_model_names(dataset: Path, tmp_path: Path) -> None:
    assert best_names(3) == ("best", "best_1", "best_2", "best_3")
    assert best_model(tmp_path) == tmp_path / "best.npz"  # a model without a run
    run = tmp_path / "run"
    open_run(run, header_of(dataset), resume=False)
    for name in best_names(2):
        (run / f"{name}.npz").touch()
    found = [best_model(run, best_for).name for best_for in ("mean", "food", "kitchen")]
    assert found == ["best.npz", "best_1.npz", "best_2.npz"]


def test_the_best_of_three_domains() -> None:
    stopping = EarlyStopping.start(3)
    every = ["best", "best_1", "best_2", "best_3"]
    assert stopping.update(EpochMetrics(1, 0.5, 0.1, (0.1,) * 3, (0.1, 0.2, 0.3))) == every
    assert stopping.update(EpochMetrics(2, 0.5, 0.1, (0.1,) * 3, (0.1, 0.1, 0.6))) == ["best", "best_3"]
    assert not stopping.finished(2, 1)
    assert stopping.finished(3, 1)


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"hello").hexdigest()
    with pytest.raises(DataError, match="missing: cannot be read: No such file"):
        file_hash(tmp_path / "missing")


@pytest.fixture
def dataset(small_world: object, tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    shutil.copytree(small_world.folder, folder)  # type: ignore[attr-defined]
    return folder


def test_the_hash_of_a_data_set_is_of_what_training_sees(dataset: Path) -> None:
    before = folder_hash(dataset)
    header = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps({**header, "source": {"from": "elsewhere"}}))
    assert folder_hash(dataset) == before
    rows = (dataset / "test_rows.npy").read_bytes()
    (dataset / "test_rows.npy").write_bytes(rows[:-4] + rows[-8:-4])
    assert folder_hash(dataset) != before
    (dataset / "test_rows.npy").write_bytes(rows)
    assert folder_hash(dataset) == before


def test_the_hash_sees_where_the_second_domain_starts(dataset: Path) -> None:
    before = folder_hash(dataset)
    header = json.loads((dataset / "dataset.json").read_text())
    header["domains"][0]["items"] += 1
    header["domains"][1]["items"] -= 1
    (dataset / "dataset.json").write_text(json.dumps(header))
    assert folder_hash(dataset) != before


def test_files_that_are_none_of_the_data_set_do_not_change_its_hash(dataset: Path) -> None:
    names = sorted(p.name for p in dataset.iterdir() if p.name != "dataset.json")
    domains = json.loads((dataset / "dataset.json").read_text())["domains"]
    parts = [name + hashlib.sha256((dataset / name).read_bytes()).hexdigest() for name in names]
    expected = hashlib.sha256((json.dumps(domains, sort_keys=True) + "".join(parts)).encode()).hexdigest()
    assert folder_hash(dataset) == expected  # as runs of the first version have it
    (dataset / ".DS_Store").write_bytes(b"\0")
    open_run(dataset / "run", header_of(dataset), resume=False)
    assert folder_hash(dataset) == expected
    assert read_run(dataset / "run").dataset == dataset
    (dataset / "test_rows.npy").unlink()
    with pytest.raises(DataError, match=r"test_rows\.npy: cannot be read"):
        folder_hash(dataset)


def header_of(dataset: Path) -> RunHeader:
    return RunHeader(
        {"hidden": 8, "n_epochs": 5, "patience": 2}, dataset, folder_hash(dataset), ("food", "kitchen")
    )


def test_a_run_is_read_back(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    open_run(run, header_of(dataset), resume=False)
    assert read_run(run) == header_of(dataset)


def test_a_data_set_that_moved_must_be_named(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    open_run(run, header_of(dataset), resume=False)
    moved = tmp_path / "moved"
    shutil.move(dataset, moved)
    with pytest.raises(TrainingError, match=r"its data set is not at .*dataset any more; name its folder"):
        read_run(run)
    assert read_run(run, moved).dataset == moved
    (moved / "item_titles.json").write_text("[]")
    with pytest.raises(TrainingError, match="moved is not the data set that the run was trained on"):
        read_run(run, moved)


def test_only_the_same_run_is_resumed(dataset: Path, tmp_path: Path) -> None:
    run, header = tmp_path / "run", header_of(dataset)
    open_run(run, header, resume=True)  # nothing there yet: a new run
    with pytest.raises(TrainingError, match="holds a run already; resume it, or choose another folder"):
        open_run(run, header, resume=False)
    with pytest.raises(TrainingError, match="started with another data set"):
        open_run(run, replace(header, dataset_sha256="0"), resume=True)
    with pytest.raises(TrainingError, match="started with other text embeddings, or none"):
        open_run(run, replace(header, text_embeddings_sha256="0"), resume=True)
    with pytest.raises(TrainingError, match="settings differ from the run's: hidden was 8 and is now 16"):
        open_run(run, replace(header, settings={**header.settings, "hidden": 16}), resume=True)
    assert read_run(run) == header  # as it was
    longer = replace(header, settings={**header.settings, "n_epochs": 9, "patience": 3})
    open_run(run, longer, resume=True)
    assert read_run(run) == longer


def test_other_folders_are_left_alone(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not empty and holds no run"):
        open_run(dataset, header_of(dataset), resume=True)
    with pytest.raises(TrainingError, match="is not empty and holds no run"):
        open_run(dataset / "item_ids.json", header_of(dataset), resume=False)
    assert (dataset / "item_ids.json").exists()
    (tmp_path / "empty").mkdir()
    open_run(tmp_path / "empty", header_of(dataset), resume=False)


def test_what_a_killed_process_half_wrote_is_removed(dataset: Path, tmp_path: Path) -> None:
    run, header = tmp_path / "run", header_of(dataset)
    run.mkdir()
    (run / ".run.json.x1.tmp").write_text("{")
    open_run(run, header, resume=False)
    (run / ".checkpoint.npz.x2.tmp").write_text("half")
    open_run(run, header, resume=True)
    assert [p.name for p in run.iterdir()] == ["run.json"]


@pytest.mark.parametrize("name", [".notes.tmp", ".tmp", ".run.json.tmp.swp", "checkpoint.npz.1.tmp"])
def test_files_of_others_are_neither_removed_nor_overlooked(dataset: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / name).write_text("mine")
    with pytest.raises(TrainingError, match="is not empty and holds no run"):
        open_run(run, header_of(dataset), resume=False)
    (run / name).rename(tmp_path / name)
    open_run(run, header_of(dataset), resume=False)
    (tmp_path / name).rename(run / name)
    open_run(run, header_of(dataset), resume=True)
    assert (run / name).read_text() == "mine"


def test_what_is_no_run_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"run.json: no such file; is .* the folder of a training run\?"):
        read_run(tmp_path)
    for content in ("{", "[]", "{}", '{"settings": 1, "dataset": "d"}', "\xff"):
        (tmp_path / "run.json").write_text(content, encoding="latin-1")
        with pytest.raises(TrainingError, match=r"run\.json: damaged"):
            read_run(tmp_path)
