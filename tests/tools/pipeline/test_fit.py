"""The pipeline on a tiny world: what it makes, what it does not make again, and that kill -9 is harmless."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fit_world import CONFIG, NAMES, STAGES, copy_of, ran, write_world
from tiny_encoder import make_tiny_model, write_encoder

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import DataError, GenerationError, TrainingError, UsageError
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.evaluation.model_evaluation import evaluate
from llmcdsr_tools.generate.language_model import Reply, RequestFailedError
from llmcdsr_tools.names import GeneratedNames, read_names, write_names
from llmcdsr_tools.pipeline.fitting import FitObserver, FitResult, fit
from llmcdsr_tools.pipeline.observer import StageOutcome
from llmcdsr_tools.pipeline.stage_cache import Stage, tree_hash


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """An undisturbed run, never to be changed."""
    return fit(copy_of(world, tmp_path_factory.mktemp("undisturbed")))


def bytes_of(bundle: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in bundle.iterdir()}


class Recorder(FitObserver):
    def __init__(self, stop_before: str = "") -> None:
        self.stop_before, self.told = stop_before, []  # type: ignore[var-annotated]

    def started(self, stage: Stage) -> None:
        if stage.name == self.stop_before:
            raise KeyboardInterrupt
        self.told.append(("started", stage.name))

    def done(self, outcome: StageOutcome) -> None:
        self.told.append(("cached" if outcome.cached else "done", outcome.name))


def test_from_nothing_to_a_bundle_and_a_report(made: FitResult) -> None:
    assert [stage.name for stage in made.stages] == STAGES
    assert ran(made) == STAGES
    recommender = Recommender.load(made.bundle)
    recommended = recommender.recommend(["f0", "f3"], domain="kitchen", k=3)
    assert [item.id[0] for item in recommended] == ["k"] * 3
    by_name = {stage.name: stage.output for stage in made.stages}
    names = read_names(by_name["names"])
    assert {record.generator for record in names} == {"neighbours"}
    assert max(len(record.names) for record in names) == 4
    assert np.load(by_name["embed"]).shape == (54, 8)
    # the measures are those of the bundle
    assert repr(made.metrics.test) == repr(evaluate([made.bundle], by_name["ingest"]).measures)
    assert read_bundle(made.bundle).training["settings"]["inner_optimizer"] == "sgd"
    assert read_bundle(made.bundle).new_items is not None
    assert (made.bundle / "recall_items.npy").exists()


def test_a_second_call_does_nothing(world: Path, made: FitResult, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path, made)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in config.parent.rglob("*") if p.is_file()}
    recorder = Recorder()
    again = fit(config, observer=recorder)
    assert recorder.told == [("cached", name) for name in STAGES]
    after = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in config.parent.rglob("*") if p.is_file()}
    del before[config.parent / "work" / ".lock"], after[config.parent / "work" / ".lock"]
    assert after == before
    assert repr(again.metrics) == repr(made.metrics)  # some are nan


@pytest.mark.parametrize(
    ("old", "new", "rerun"),
    [
        ("[train]\n", "[train]\ndropout = 0.4\n", ["train", "export", "evaluate", "report"]),
        (
            "n_names = 4",
            "n_names = 3",
            ["names", "embed-names", "train", "export", "evaluate", "report"],
        ),
        pytest.param(
            "[pretrain]\n",
            "[export]\nseed = 3\n[pretrain]\n",
            ["export", "evaluate", "report"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "dimension = 8",
            "dimension = 7",
            [name for name in STAGES if name not in ("ingest", "names")],
            marks=pytest.mark.slow,
        ),
        ("[embed]", "# a remark\n[embed]", ["report"]),
    ],
)
def test_a_change_reruns_what_depends_on_it(
    world: Path, made: FitResult, tmp_path: Path, old: str, new: str, rerun: list[str]
) -> None:
    config = copy_of(world, tmp_path, made)
    config.write_text(CONFIG.replace(old, new), encoding="utf-8")
    assert ran(fit(config)) == rerun
    config.write_text(CONFIG, encoding="utf-8")  # what was made before is still there
    back = fit(config)
    assert set(ran(back)) <= {"export", "report"}
    assert bytes_of(back.bundle) == bytes_of(made.bundle)


def test_a_changed_input_reruns_everything(world: Path, made: FitResult, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path, made)
    items = config.parent / "items.csv"
    items.write_text(items.read_text().replace("sour", "bitter"))
    assert ran(fit(config)) == STAGES


def test_an_output_that_was_touched_is_made_again(world: Path, made: FitResult, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path, made)
    (config.parent / "bundle" / "dense.npy").write_bytes(b"")
    (next((config.parent / "work" / "embed").iterdir()) / "titles.npy").unlink()
    again = fit(config)
    assert ran(again) == ["embed", "export"]
    assert bytes_of(again.bundle) == bytes_of(made.bundle)


def test_an_output_that_comes_out_otherwise_reruns_what_reads_it(
    world: Path, made: FitResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the answers of a language model do, or a package that is worked on."""
    config = copy_of(world, tmp_path, made)

    def other(dataset: Path, output: Path, **settings: Any) -> None:
        write_names(output, read_names(made.stages[2].output)[:-5])

    monkeypatch.setattr("llmcdsr_tools.pipeline.stages.neighbours", other)
    (next((config.parent / "work" / "names").iterdir()) / "names.jsonl").unlink()
    assert ran(fit(config)) == ["names", "embed-names", "train", "export", "evaluate", "report"]


def test_without_names_and_without_a_recall_network(world: Path, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path)
    text = CONFIG.replace(NAMES, 'generator = "none"').replace('inner_optimizer = "sgd"', "")
    config.write_text(text, encoding="utf-8")
    result = fit(config)
    assert ran(result) == [name for name in STAGES if name not in ("names", "embed-names")]
    assert (result.bundle / "recall_items.npy").exists()  # histories are recalled for by their own titles
    assert "Generated names" not in result.report().read_text(encoding="utf-8")
    config.write_text(text + "[export]\nrecall = false\n", encoding="utf-8")
    result = fit(config)
    assert ran(result) == ["export", "evaluate", "report"]
    assert [stage.name for stage in result.stages] == [
        name for name in STAGES if name not in ("names", "embed-names", "pretrain")
    ]
    assert not list(result.bundle.glob("recall*"))


@pytest.mark.slow
def test_members_and_their_student(world: Path, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path)
    text = CONFIG.replace(NAMES, 'generator = "none"').replace('inner_optimizer = "sgd"', "members = 2")
    config.write_text(text + "[export]\nrecall = false\n", encoding="utf-8")
    members = fit(config).bundle
    assert len(read_bundle(members).parameters.members) == 2
    assert "Distilled" not in (members / "README.md").read_text(encoding="utf-8")
    text = text.replace("members = 2", "members = 2\ndistill = true")
    config.write_text(text + "[export]\nrecall = false\n", encoding="utf-8")
    result = fit(config)
    assert ran(result) == ["train", "export", "evaluate", "report"]
    assert len(read_bundle(result.bundle).parameters.members) == 1
    assert "Distilled" in (result.bundle / "README.md").read_text(encoding="utf-8")
    trained = next(stage.output for stage in result.stages if stage.name == "train")
    assert {"member-1", "member-2", "best.npz"} <= {path.name for path in trained.iterdir()}


def test_names_of_a_file(world: Path, made: FitResult, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path, made)
    titles = load_dataset(made.stages[0].output).catalogue.titles
    names = [
        GeneratedNames(r.user, r.domain, tuple(t for t in titles if t in r.names), "by hand")
        for r in read_names(made.stages[2].output)
    ]
    write_names(config.parent / "mine.jsonl", names)
    text = CONFIG.replace(NAMES, 'generator = "file"\nfile = "mine.jsonl"')
    config.write_text(text, encoding="utf-8")
    result = fit(config)
    assert ran(result) == ["names", "embed-names", "train", "export", "evaluate", "report"]
    assert "by hand" in result.report().read_text(encoding="utf-8")
    write_names(config.parent / "mine.jsonl", [GeneratedNames("u0", "kitchen", ("no title",), "by hand")])
    with pytest.raises(UsageError, match="name an encoder folder"):
        fit(config)


class StandIn:
    """A language model that refuses some of the first requests."""

    n_refusals, n_asked = 0, 0

    def __init__(self, *arguments: Any) -> None:
        self.retried: dict[str, int] = {}

    def close(self) -> None:
        pass

    def ask(self, prompt: Any, output_format: Any, seed: int) -> Reply:
        StandIn.n_asked += 1
        if StandIn.n_asked <= StandIn.n_refusals:
            raise RequestFailedError("out of order")
        return Reply(" A sweet pan\n2. A sour pot\n3. A salt lid", False, 1, 1, 0.1)


def test_names_of_a_language_model(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = copy_of(world, tmp_path)
    write_encoder(config.parent / "encoder", make_tiny_model())
    text = CONFIG.replace(NAMES, 'generator = "llm"\nlimit = 20')
    text = text.replace("dimension = 8", 'encoder = "encoder"') + (
        "[generate]\nbase_url = 'http://127.0.0.1:1/v1'\nmodel = 'stand-in'\n"
        "endpoint = 'completion'\noutput_format = 'list'\nconcurrency = 1\n"
    )
    config.write_text(text, encoding="utf-8")
    monkeypatch.setattr("llmcdsr_tools.generate.generation.OpenAIModel", StandIn)
    monkeypatch.setattr(StandIn, "n_asked", 0)
    monkeypatch.setattr(StandIn, "n_refusals", 2)
    with pytest.raises(GenerationError, match=r"2 of 20 users have no answer.*out of order"):
        fit(config)
    assert StandIn.n_asked == 20
    result = fit(config)  # asks again for the two alone
    assert StandIn.n_asked == 22
    assert ran(result) == [name for name in STAGES if name not in ("ingest", "embed")]
    names = read_names(result.stages[2].output)
    assert len(names) == 20
    assert {(r.generator, r.names) for r in names} == {
        ("stand-in", ("A sweet pan", "A sour pot", "A salt lid"))
    }
    assert "20 of 20 answers kept" in result.report().read_text(encoding="utf-8")
    moved = text.replace("127.0.0.1:1", "127.0.0.1:2").replace("concurrency = 1", "concurrency = 2")
    config.write_text(moved, encoding="utf-8")
    assert ran(fit(config)) == ["report"]  # where the server is decides no answer
    assert StandIn.n_asked == 22


@pytest.mark.parametrize("stage", ["train", "export"])
def test_ctrl_c_keeps_the_stages_before(world: Path, made: FitResult, tmp_path: Path, stage: str) -> None:
    config = copy_of(world, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(config, observer=Recorder(stop_before=stage))
    result = fit(config)
    assert ran(result) == STAGES[STAGES.index(stage) :]
    assert bytes_of(result.bundle) == bytes_of(made.bundle)


@pytest.mark.slow
def test_killing_it_at_random_moments_changes_nothing(world: Path, made: FitResult, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path)
    command = [
        sys.executable,
        "-c",
        "from llmcdsr_tools.cli.commands import main; main()",
        "fit",
        str(config),
    ]
    rng = random.Random(time.time_ns())
    killed_in: list[str] = []
    for attempt in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        told = process.stderr.readline()  # the imports, most of a second, are behind it
        time.sleep(rng.uniform(0, 0.1 * (attempt + 1)))
        process.kill()
        told += process.stderr.read()
        process.stderr.close()
        if process.wait() != -signal.SIGKILL:
            break  # it came to its end
        killed_in += [line for line in told.splitlines() if line.endswith(" ...")][-1:]
        if len(killed_in) >= 3 and len(set(killed_in)) >= 2:
            break
    assert killed_in
    result = fit(config)
    assert bytes_of(result.bundle) == bytes_of(made.bundle)
    for mine, other in zip(result.stages, made.stages, strict=True):
        if mine.name not in ("train", "report"):  # these say how long they took
            assert tree_hash(mine.output) == tree_hash(other.output), mine.name
    assert not list(config.parent.rglob(".*.tmp"))


def test_what_is_not_a_bundle_is_not_replaced(world: Path, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path)
    (config.parent / "bundle").mkdir()
    (config.parent / "bundle" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="so it is not a bundle and not replaced"):
        fit(config)
    assert not (config.parent / "work").exists()  # said before any work
    shutil.rmtree(config.parent / "bundle")
    (config.parent / "report.html").mkdir()
    with pytest.raises(DataError, match=r"report\.html: is a folder"):
        fit(config)


def test_two_at_once_are_refused(world: Path, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path)

    class Second(FitObserver):
        def started(self, stage: Stage) -> None:
            with pytest.raises(TrainingError, match="another `llmcdsr fit` is working in this folder"):
                fit(config)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, observer=Second())
    fit(config, observer=Recorder())  # let go of


def test_the_command(world: Path, made: FitResult, tmp_path: Path, llmcdsr: Any) -> None:
    config = copy_of(world, tmp_path, made)
    done = llmcdsr("fit", config)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines[1:10]] == STAGES
    assert all(line.endswith("done before") for line in lines[1:10])
    assert lines[-2:] == [f"bundle: {config.parent / 'bundle'}", f"report: {config.parent / 'report.html'}"]
    assert "the best baseline" in done.stdout.decode()
    told = json.loads(llmcdsr("fit", config, "--json").stdout)
    assert (told["bundle"], told["report"]) == (
        str(config.parent / "bundle"),
        str(config.parent / "report.html"),
    )
    assert [(stage["name"], stage["cached"]) for stage in told["stages"]] == [(name, True) for name in STAGES]
    evaluated = json.loads(next((config.parent / "work" / "evaluate").glob("*/measures.json")).read_text())
    assert {name: told[name] for name in ("test", "valid", "verdicts")} == evaluated


def test_what_the_command_says_without_work(world: Path, tmp_path: Path) -> None:
    config = copy_of(world, tmp_path)
    config.write_text(CONFIG.replace("n_names", "n_name"), encoding="utf-8")
    runner = CliRunner()
    shown = runner.invoke(cli, ["fit", "--example"])
    assert shown.exit_code == 0
    assert "[pretrain]" in shown.output
    for arguments, status, message in (
        (["fit"], 2, "name a configuration"),
        (["fit", str(tmp_path / "no.toml")], 1, "cannot be read"),
        (["fit", str(config)], 1, "[names]: unknown key 'n_name'; did you mean 'n_names'?"),
    ):
        refused = runner.invoke(cli, arguments)
        assert refused.exit_code == status
        assert message in refused.output
        assert isinstance(refused.exception, SystemExit)  # no traceback
