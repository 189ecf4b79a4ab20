"""The pipeline on one domain and on three."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from fit_world import CONFIG, NAMES, STAGES, copy_of, ran, write_world

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_tools import WordEncoder, fit, load_dataset
from llmcdsr_tools.names import read_names
from llmcdsr_tools.pipeline.fitting import FitObserver


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def with_domains(world: Path, folder: Path, domains: dict[str, str], text: str) -> Path:
    """A copy of the world whose items are of other domains, by the end of their ids; none is configured."""
    config = copy_of(world, folder)
    with (config.parent / "items.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    with (config.parent / "items.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [[item, next(d for end, d in domains.items() if item.endswith(end)), t] for item, _, t in rows]
        csv.writer(file).writerows([header, *rows])
    config.write_text(text.replace('domains = ["food", "kitchen"]\n', ""), encoding="utf-8")
    return config


def test_one_domain(world: Path, tmp_path: Path) -> None:
    text = CONFIG.replace(NAMES, 'generator = "none"').replace('inner_optimizer = "sgd"', "")
    config = with_domains(world, tmp_path, {"": "shop"}, text)
    result = fit(config)
    # with nothing to recall for, nothing is pre-trained for a recall network
    assert ran(result) == [name for name in STAGES if name not in ("names", "embed-names", "pretrain")]
    assert ran(fit(config)) == []
    assert not list(result.bundle.glob("recall*"))
    recommender = Recommender.load(result.bundle, backend="numpy")
    assert recommender.domains == ("shop",)
    assert len(recommender.recommend(["f0", "k3"], k=5)) == 5
    by_name = {stage.name: stage.output for stage in result.stages}
    assert {p.name for p in by_name["train"].glob("best*")} == {"best.npz", "best_1.npz"}
    # new items by title, though there was no encoder: the words of the titles are one
    encoder = WordEncoder.of_dataset(by_name["ingest"], 8)
    grown = Recommender.load(result.bundle, backend="numpy", encoder=encoder).add_items(
        [{"id": "new", "domain": "shop", "title": "a sour pan"}]
    )
    titles = [item.title for item in grown.similar("new", k=5)]
    assert len(titles) == 5
    assert sum(title.startswith("sour") for title in titles) >= 3
    assert {m.domain for m in result.metrics.test} == {"shop"}
    config.write_text(config.read_text(encoding="utf-8").replace('generator = "none"', NAMES), "utf-8")
    with pytest.raises(DataError, match=r"fit\.toml \[names\]: .* one domain alone; set generator = 'none'"):
        fit(config)


def test_three_domains(world: Path, tmp_path: Path) -> None:
    ends = {**{str(n): "garden" for n in (1, 4, 7)}, **{str(n): "food" for n in (0, 2, 5)}, "": "kitchen"}
    config = with_domains(world, tmp_path, ends, CONFIG + "[export]\nbest_for = 'garden'\n")
    result = fit(config)
    assert ran(result) == STAGES
    by_name = {stage.name: stage.output for stage in result.stages}
    data = load_dataset(by_name["ingest"])
    assert [d.name for d in data.catalogue.domains] == ["food", "garden", "kitchen"]  # f0, f1, f3
    assert {p.name for p in by_name["train"].glob("best*")} == {"best.npz", *(f"best_{n}.npz" for n in "123")}
    lacks = {
        (user, domain.name)
        for user, rows in zip(data.train.users, data.train, strict=True)
        for domain in data.catalogue.domains
        if not any(domain.start <= row < domain.stop for row in rows.tolist())
    }
    found = [(record.user, record.domain) for record in read_names(by_name["names"])]
    assert len(set(found)) == len(found) > 0
    assert set(found) <= lacks
    assert {m.domain for m in result.metrics.test} == {"food", "garden", "kitchen"}
    recommender = Recommender.load(result.bundle, backend="numpy")
    assert recommender.domains == ("food", "garden", "kitchen")
    for name in recommender.domains:
        ids = [item.id for item in recommender.recommend(["f0", "f2"], domain=name, k=4)]
        assert len(set(ids)) == 4
        assert {next(d for end, d in ends.items() if i.endswith(end)) for i in ids} == {name}
    together = recommender.recommend(["f0", "f2"], domain=["kitchen", "garden"], k=6)
    assert {item.domain for item in together} <= {"kitchen", "garden"}
    assert (result.bundle / "recall_items.npy").exists()
    epochs = [json.loads(line) for line in (by_name["train"] / "metrics.jsonl").read_text().splitlines()]
    of_garden = [epoch["ndcg10"][1] for epoch in epochs]
    training = read_bundle(result.bundle).training
    best = 1 + of_garden.index(max(of_garden))
    assert (training["best_for"], training["epochs"]) == ("garden", [best])


def test_a_domain_that_cannot_be_pretrained(world: Path, tmp_path: Path) -> None:
    """One that hardly anybody buys of twice: the bundle has no recall network, and the rest is as ever."""
    ends = {"f28": "garden", **{str(n): "food" for n in range(5)}, "": "kitchen"}
    text = CONFIG.replace(NAMES, 'generator = "none"').replace('inner_optimizer = "sgd"', "")
    config = with_domains(world, tmp_path, ends, text)
    warnings: list[str] = []

    class Watching(FitObserver):
        def warning(self, message: str) -> None:
            warnings.append(message)

    result = fit(config, observer=Watching())
    assert ran(result) == [name for name in STAGES if name not in ("names", "embed-names", "pretrain")]
    assert len(warnings) == 1
    assert warnings[0].startswith("the bundle gets no recall network: no validation user has a target in ")
    assert "'garden'" in warnings[0]
    assert not list(result.bundle.glob("recall*"))
    recommender = Recommender.load(result.bundle, backend="numpy")
    assert [item.id for item in recommender.recommend(["f0", "k3"], domain="garden", k=3)] == ["f28"]
    assert len(recommender.recommend(["f0"], domain="kitchen", k=5)) == 5
    asked = config.read_text(encoding="utf-8").replace("[train]", "[train]\npretrained_items = true")
    config.write_text(asked, encoding="utf-8")
    with pytest.raises(TrainingError, match="no validation user has a target in domain 'garden'"):
        fit(config)
