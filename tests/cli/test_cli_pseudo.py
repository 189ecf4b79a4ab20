"""Pseudo items from the command line, against the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ok, run

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.cli.commands import cli as runtime
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.score.job import ScoreSettings, score_histories
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.evaluation.official import evaluate, open_answers, open_model

SIMILAR = ExpertWeights(similar=4.0)


@pytest.fixture(scope="module")
def folder(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Similarity is added in kitchen, nothing in food."""
    kitchen = DomainMix(cold=SIMILAR, named=SIMILAR, n_recalled=3)
    bundle = replace(bundle_data, recall=recall_network, mix=(DomainMix(), kitchen))
    return build_bundle(bundle, tmp_path_factory.mktemp("cli_pseudo") / "bundle")


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender.load(folder)


@pytest.mark.parametrize("pseudo", ["auto", "off"])
def test_recommend(folder: Path, recommender: Recommender, pseudo: Any) -> None:
    output = ok(
        "recommend", "f3", "f4", "--domain", "kitchen", "--pseudo", pseudo, "--json", "--model", folder
    )
    answer = recommender.recommend(["f3", "f4"], domain="kitchen", pseudo=pseudo)
    assert json.loads(output)["recommendations"] == [vars(item) for item in answer]
    assert "explanation" not in json.loads(output)


def test_auto_is_the_default_and_differs_from_off(folder: Path) -> None:
    arguments = ("recommend", "f3", "f4", "--domain", "kitchen", "--model", folder)
    assert ok(*arguments) == ok(*arguments, "--pseudo", "auto") != ok(*arguments, "--pseudo", "off")


def test_recommend_for_names(folder: Path, recommender: Recommender) -> None:
    arguments = ("recommend", "k1", "--domain", "kitchen", "--json", "--model", folder)
    output = ok(*arguments, "--name", "k7", "--name", "Café beans No. 4")
    answer = recommender.recommend(["k1"], domain="kitchen", pseudo=["k7", "f4"])
    assert json.loads(output)["recommendations"] == [vars(item) for item in answer]
    failed = run(*arguments, "--name", "tea")
    assert (failed.exit_code, "'tea' is neither the id nor the title" in failed.output) == (2, True)
    failed = run(*arguments, "--name", "tea", "--encoder", folder / "none")
    assert (failed.exit_code, "no such folder, expected an encoder folder" in failed.output) == (1, True)


def test_explain(folder: Path, recommender: Recommender) -> None:
    arguments = ("recommend", "f3", "f4", "--domain", "kitchen", "--explain", "--model", folder)
    expected = recommender.recommend(["f3", "f4"], domain="kitchen", explain=True).explanation
    assert expected is not None
    found = json.loads(ok(*arguments, "--json"))["explanation"]
    assert found["setting"] == "add 4 x cosine to the scores"
    assert [p["id"] for p in found["pseudo"]] == [p.id for p in expected.pseudo]
    assert [i["change"] for i in found["history"]] == [i.change for i in expected.history]
    lines = ok(*arguments).splitlines()
    start = lines.index("score of the first recommendation that each item of the history brought")
    assert lines[start + 1 :] == [
        *(f"  {i.change:+8.3f}  {i.id}  {i.title}" for i in expected.history),
        "score of the first recommendation: "
        + ", ".join(f"{name} {share:+.3f}" for name, share in expected.shares.items()),
        "pseudo items: add 4 x cosine to the scores",
        *(
            f"  cosine {p.similarity:6.3f}    {p.id:<{max(len(q.id) for q in expected.pseudo)}}  {p.title}"
            for p in expected.pseudo
        ),
    ]
    single = ok("recommend", "f3", "--domain", "food", "--explain", "--model", folder).splitlines()
    assert single[-2:] == ["         -  f3  Café beans No. 3", "pseudo items: off"]


def test_inspect(folder: Path) -> None:
    lines = ok("inspect", folder).splitlines()
    assert lines[0].startswith(f"{folder}: format version 1, verified")
    assert lines[4:6] == [
        "mix for food: model alone; items of the history left out",
        "mix for kitchen: model alone; without items of the domain model + similar 4 (recalled by titles); "
        "items of the history left out",
    ]
    assert json.loads(ok("inspect", folder, "--json"))["recall"]["hidden"] == 5


@pytest.mark.parametrize("pseudo", ["auto", "off"])
def test_score(folder: Path, recommender: Recommender, tmp_path: Path, pseudo: Any) -> None:
    histories = [["f3", "f4"], ["k3"], ["f1", "k2"], []]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"user": i, "history": h}) + "\n" for i, h in enumerate(histories)))
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    arguments = ("-k", "4", "--domain", "kitchen", "--pseudo", pseudo, "--model", folder)
    ok("score", source, "-o", out, *arguments)
    batch = recommender.recommend_batch(histories, domain="kitchen", k=4, pseudo=pseudo)
    found = [[item["id"] for item in json.loads(line)["items"]] for line in out.read_text().splitlines()]
    assert found == batch.ids.tolist()
    score_histories(recommender, source, again, ScoreSettings(k=4, domain="kitchen", pseudo=pseudo))
    assert again.read_bytes() == out.read_bytes()


def test_score_settings_that_cannot_be_meant() -> None:
    other: Any = "on"
    with pytest.raises(UsageError, match="pseudo is 'on', expected one of 'auto', 'off'"):
        ScoreSettings(pseudo=other)


def test_evaluate(folder: Path, bundle_data: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 31, 6).tolist() for _ in range(30)]
    histories = Histories.from_lists(lists, [f"u{i}" for i in range(30)])
    save_dataset(Dataset(bundle_data.catalogue, histories, histories, histories), tmp_path / "d")
    output = json.loads(ok("evaluate", folder, tmp_path / "d", "--official", "--json"))["results"]
    data = Dataset(bundle_data.catalogue, histories, histories, histories)
    expected = evaluate(*open_model(folder, data), data, answers=open_answers(folder))
    assert [r["hr"] for r in output] == [list(r.hr) for r in expected]
    assert {r["scored_by"] for r in output} == {"model", "bundle"}
    arguments = ("--official", "--pseudo", "off", "--json")
    off = json.loads(ok("evaluate", folder, tmp_path / "d", *arguments))["results"]
    assert off == [r for r in output if r["scored_by"] == "model"]


def test_the_runtime_has_the_options_without_the_tools() -> None:
    for command, options in {
        "recommend": {"--pseudo", "--name", "--encoder", "--explain"},
        "score": {"--pseudo"},
    }.items():
        assert options <= {name for p in runtime.commands[command].params for name in p.opts}
