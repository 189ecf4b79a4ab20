"""From a CSV file to recommendations through the console command, as the documentation tells it."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.score.job import ScoreSettings, score_histories
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.cli.evaluation import _print_results
from llmcdsr_tools.evaluation.model_evaluation import BASELINES
from llmcdsr_tools.evaluation.official import Result

Command = Callable[..., subprocess.CompletedProcess[bytes]]
N_FOOD, N_KITCHEN, N_USERS = 30, 24, 240
TRAIN = ("--hidden", "8", "--blocks", "1", "--max-length", "8", "--batch-size", "32")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interactions and items; every user likes one of three tastes, in one domain or both."""
    folder = tmp_path_factory.mktemp("world")
    rng = random.Random(4)
    food, kitchen = [f"f{n}" for n in range(N_FOOD)], [f"k{n}" for n in range(N_KITCHEN)]
    rows = [["user", "item", "timestamp"]]
    for user in range(N_USERS):
        domains = (food, kitchen, food + kitchen, food + kitchen)[user % 4]
        liked = [item for item in domains if int(item[1:]) % 3 == user % 3]
        rows += [[f"u{user}", rng.choice(liked), str(time)] for time in range(rng.randint(5, 12))]
    items = [["item", "domain", "title"]]
    items += [[item, "food", f"Crème No. {item}"] for item in food]
    items += [[item, "kitchen", f'Pan, "{item}"'] for item in kitchen]
    for name, table in (("interactions", rows), ("items", items)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(table)
    return folder


def ok(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def made(world: Path, llmcdsr: Command) -> dict[str, str]:
    """Run every command in order, in the folder of the world; what each wrote to stdout."""
    outputs = {}
    for name, arguments in {
        "ingest": (
            *("interactions.csv", "--items", "items.csv", "--domain", "food", "--domain", "kitchen"),
            *("--core", "2", "--valid-share", "0.2", "--test-share", "0.2", "-o", "dataset", "--json"),
        ),
        "train": ("dataset", "-o", "run", "--epochs", "3", "--loss", "sampled-softmax", *TRAIN),
        "evaluate": ("run", "dataset", "--json"),
        "export": ("run", "-o", "bundle", "--standalone", "graph.onnx", "--json"),
        "histories": ("dataset", "--split", "test", "-o", "test.jsonl"),
        "score": ("test.jsonl", "--model", "bundle", "-k", "4", "-o", "scores.jsonl"),
    }.items():
        outputs[name] = ok(llmcdsr(name, *arguments, cwd=world))
    return outputs


def test_ingest_counts_what_is_in_the_file(world: Path, made: dict[str, str]) -> None:
    with (world / "interactions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads(made["ingest"])
    splits = [summary[split] for split in ("train", "valid", "test")]
    domains: dict[str, set[str]] = {}
    for row in rows:
        domains.setdefault(row["user"], set()).add(row["item"][0])
    for number, letter in enumerate("fk"):
        expected = sum(found == {letter} for found in domains.values())
        assert sum(split["users_of_one"][number] for split in splits) == expected > 0
    both = sum(found == {"f", "k"} for found in domains.values())
    assert sum(split["users_overlapped"] for split in splits) == both > 0
    assert sum(split["interactions"] for split in splits) == len(rows)
    assert min(split["users_overlapped"] for split in splits) > 0


def test_held_out_histories_lack_their_last_item(world: Path, made: dict[str, str]) -> None:
    with (world / "interactions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (world / "test.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        record = json.loads(line)
        whole = [row["item"] for row in rows if row["user"] == record["user"]]
        assert record["history"] == whole[:-1]


def test_histories_to_standard_output(world: Path, made: dict[str, str], llmcdsr: Command) -> None:
    assert ok(llmcdsr("histories", "dataset", cwd=world)) == (world / "test.jsonl").read_text()


def test_the_bundle_is_evaluated_as_the_run_was(world: Path, made: dict[str, str], llmcdsr: Command) -> None:
    run, bundle = (
        json.loads(made["evaluate"]),
        json.loads(ok(llmcdsr("evaluate", "bundle", "dataset", "--json", cwd=world))),
    )
    assert json.dumps(run) == json.dumps(bundle)
    assert json.dumps(run) == json.dumps(json.loads(made["export"]))
    assert (run["split"], run["positions"]) == ("test", "last")
    assert {m["scorer"] for m in run["measures"]} == {"model", *BASELINES}
    assert all(0 <= m["hr10"] <= 1 for m in run["measures"] if m["n_targets"])
    shown = [m for m in run["measures"] if m["group"] in ("all", "cold")]
    table = ok(llmcdsr("evaluate", "run", "dataset", cwd=world)).splitlines()
    assert len(table) == 1 + len(shown) + 1 + len(run["verdicts"])  # a head, a line on repeats
    assert table[-len(run["verdicts"]) :] == run["verdicts"]


def test_two_models_are_compared(world: Path, made: dict[str, str], llmcdsr: Command) -> None:
    found = json.loads(ok(llmcdsr("evaluate", "run", "bundle", "dataset", "--json", cwd=world)))
    assert {m["scorer"] for m in found["measures"]} == {"run", "bundle", *BASELINES}
    assert found["differences"]
    for one in found["differences"]:
        assert (one["scorer"], one["other"], one["ndcg10"], one["ndcg10_error"]) == ("run", "bundle", 0, 0)
    text = ok(llmcdsr("evaluate", "run", "bundle", "dataset", "--all-groups", cwd=world))
    assert "run minus bundle" in text
    refused = llmcdsr("evaluate", "run", "bundle", "dataset", "--official", cwd=world)
    assert refused.returncode == 2
    assert b"--official is for one model" in refused.stderr


def test_the_official_protocol(world: Path, made: dict[str, str], llmcdsr: Command) -> None:
    run = json.loads(ok(llmcdsr("evaluate", "run", "dataset", "--official", "--json", cwd=world)))
    assert (run["split"], run["seed"]) == ("test", 0)
    assert {(r["domain"], r["n_negatives"], r["n_items"]) for r in run["results"]} == {
        ("food", N_FOOD - 1, N_FOOD),
        ("kitchen", N_KITCHEN - 1, N_KITCHEN),
    }
    assert all(0 <= hr <= 1 for r in run["results"] for hr in r["hr"] if r["n_users"])
    table = ok(llmcdsr("evaluate", "run", "dataset", "--official", cwd=world)).splitlines()
    assert len(table) == 1 + len(run["results"])


def test_a_run_is_not_evaluated_on_other_data(world: Path, made: dict[str, str], llmcdsr: Command) -> None:
    arguments = (
        "interactions.csv",
        "--items",
        "items.csv",
        "--domain",
        "food",
        "--domain",
        "kitchen",
        "--core",
        "2",
    )
    ok(llmcdsr("ingest", *arguments, "--seed", "3", "-o", "other", cwd=world))  # the same items
    done = llmcdsr("evaluate", "run", "other", cwd=world)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"Error: run: other is not the data set that the run was trained on\n"


def test_a_best_model_that_is_missing_is_named(
    world: Path, made: dict[str, str], llmcdsr: Command, tmp_path: Path
) -> None:
    run = shutil.copytree(world / "run", tmp_path / "run")
    (run / "best_2.npz").unlink()
    for command in (("evaluate", str(run), "dataset"), ("export", str(run), "-o", str(tmp_path / "bundle"))):
        done = llmcdsr(*command, "--best-for", "kitchen", cwd=world)
        assert done.returncode == 1
        assert b"best_2.npz: no such file; the run has not finished an epoch, or no " in done.stderr


@pytest.mark.parametrize("is_done", [False, True])
def test_ctrl_c_tells_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_done: bool) -> None:
    def interrupted(dataset: Path, run: Path, *_: Any, **__: Any) -> None:
        run.mkdir()
        if is_done:
            (run / "checkpoint.npz").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("llmcdsr_tools.train.training_run.train", interrupted)
    done = CliRunner().invoke(cli, ["train", "dataset", "-o", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert ("keeps the last full epoch, --resume goes on" in done.output) == is_done
    assert ("no epoch was done, --resume begins again" in done.output) != is_done


def test_a_measure_of_no_users_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = (float("nan"),) * 4
    _print_results([Result("full", "cold", "food", 0, 29, 30, nothing, nothing)], "test", 0, as_json=True)
    assert json.loads(capsys.readouterr().out)["results"][0]["hr"] == [None] * 4


def test_json_outputs_are_json(made: dict[str, str]) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    for name in ("ingest", "evaluate", "export"):
        json.loads(made[name], parse_constant=refuse)


def test_the_bundle_has_the_catalogue_and_counts(world: Path, made: dict[str, str]) -> None:
    bundle = read_bundle(world / "bundle")
    assert [d.name for d in bundle.catalogue.domains] == ["food", "kitchen"]
    assert bundle.catalogue.titles[0].startswith("Crème No. f")
    counts: dict[str, int] = {}
    with (world / "interactions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            counts[row["item"]] = counts.get(row["item"], 0) + 1
    found = dict(zip(bundle.catalogue.ids, bundle.item_counts[1:].tolist(), strict=True))
    assert all(0 <= found[item] <= counts[item] for item in found)
    assert sum(found.values()) == bundle.training["training_interactions"]


def test_scores_are_those_of_the_recommender(world: Path, made: dict[str, str], tmp_path: Path) -> None:
    recommender = Recommender.load(world / "bundle")
    score_histories(recommender, world / "test.jsonl", tmp_path / "out.jsonl", ScoreSettings(k=4))
    assert (tmp_path / "out.jsonl").read_text() == (world / "scores.jsonl").read_text()
    for line, history in zip(
        (world / "scores.jsonl").read_text().splitlines(),
        (world / "test.jsonl").read_text().splitlines(),
        strict=True,
    ):
        assert json.loads(line)["user"] == json.loads(history)["user"]
        assert not {i["id"] for i in json.loads(line)["items"]} & set(json.loads(history)["history"])


def test_the_graph_beside_the_bundle_is_of_it(world: Path, made: dict[str, str], llmcdsr: Command) -> None:
    ok(llmcdsr("export", "bundle", "--standalone", "again.onnx", cwd=world))
    assert (world / "again.onnx").read_bytes() == (world / "graph.onnx").read_bytes()
    done = llmcdsr("export", "run", "-o", "bundle3", "--standalone", "graph.onnx", cwd=world)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"Error: graph.onnx: exists already")
    assert not (world / "bundle3").exists()


def test_a_resumed_run_gives_the_same_bundle(world: Path, made: dict[str, str], llmcdsr: Command) -> None:
    arguments = ("dataset", "-o", "again", "--loss", "sampled-softmax", *TRAIN)
    ok(llmcdsr("train", *arguments, "--epochs", "1", cwd=world))
    ok(llmcdsr("train", *arguments, "--epochs", "3", "--resume", cwd=world))
    ok(llmcdsr("export", "again", "-o", "bundle2", cwd=world))
    for name in ("item_vectors.npy", "dense.npy", "recommender.onnx"):
        assert (world / "bundle2" / name).read_bytes() == (world / "bundle" / name).read_bytes()


def test_outputs_are_not_overwritten_unless_asked(
    world: Path, made: dict[str, str], llmcdsr: Command
) -> None:
    before = (world / "bundle" / "config.json").read_bytes()
    done = llmcdsr("export", "run", "-o", "bundle", cwd=world)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"bundle: exists already" in done.stderr
    done = llmcdsr("train", "dataset", "-o", "run", *TRAIN, cwd=world)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Traceback" not in done.stderr
    assert (world / "bundle" / "config.json").read_bytes() == before
    ok(llmcdsr("export", "run", "-o", "bundle", "--overwrite", cwd=world))


def test_text_embeddings_of_another_size(world: Path, made: dict[str, str], llmcdsr: Command) -> None:
    np.save(world / "titles.npy", np.ones((7, 3), np.float32))
    done = llmcdsr("train", "dataset", "-o", "run3", "--text-embeddings", "titles.npy", *TRAIN, cwd=world)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: titles.npy: ")


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        (("train", "dataset", "-o", "unmade", "--epochs", "1", *TRAIN), b"threadpoolctl"),
        (("export", "run", "-o", "unmade"), b"onnx"),
        (("fit", "not-read.toml"), b"onnx"),
    ],
)
def test_without_the_extra_it_says_what_brings_it(
    world: Path,
    made: dict[str, str],
    llmcdsr_process: Command,
    without_train_extra: dict[str, str],
    arguments: tuple[str, ...],
    package: bytes,
) -> None:
    done = llmcdsr_process(*arguments, cwd=world, env=without_train_extra)
    assert done.returncode == 1
    assert package in done.stderr
    assert b"pip install 'llmcdsr-lite[train]'" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1  # at once, not after an epoch
    assert not (world / "unmade").exists()


def test_what_needs_no_extra_works_without_it(
    world: Path, made: dict[str, str], llmcdsr_process: Command, without_train_extra: dict[str, str]
) -> None:
    arguments = ("dataset", "--official", "--json")  # without baselines, whose counts need scipy
    expected = ok(llmcdsr_process("evaluate", "run", *arguments, cwd=world))
    for model in ("run", "bundle"):
        done = llmcdsr_process("evaluate", model, *arguments, cwd=world, env=without_train_extra)
        assert ok(done) == expected
