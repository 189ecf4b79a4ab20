"""The report of a pipeline's outputs: what it says, and that it needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset, save_dataset
from llmcdsr_tools.embed_names import embed_names
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.names import GeneratedNames, write_names
from llmcdsr_tools.pipeline.config_file import load_config
from llmcdsr_tools.pipeline.measures import measure, write_measures
from llmcdsr_tools.pipeline.report import ReportSources, write_report
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.pretrain.pretraining import pretrain
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.training_run import TrainResult, train

EVIL = '<script>alert("1")</script> & co'


class Page(HTMLParser):
    """Tags and visible text, and a check that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " if tag in ("td", "th") else ""

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def sources(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> ReportSources:
    """The small world with single-domain users, an untitled item and an evil one, through all stages."""
    folder = tmp_path_factory.mktemp("report")
    data = small_world.data
    titles = [EVIL, "", *data.catalogue.titles[2:]]
    catalogue = Catalogue.from_sizes(data.catalogue.ids, titles, ("food", "tools"), (30, 36))
    lists = [[r for r in h if r <= 30] if n % 3 else h.tolist() for n, h in enumerate(data.train)]
    train_split = type(data.train).from_lists(lists, data.train.users)
    save_dataset(Dataset(catalogue, train_split, data.valid, data.test), folder / "dataset")
    np.save(folder / "titles.npy", np.random.default_rng(0).normal(size=(66, 5)).astype(np.float32))
    names = [
        GeneratedNames(user, "tools", (titles[40], titles[45]), "by hand")
        for n, user in enumerate(data.train.users)
        if n % 3
    ]
    write_names(folder / "names.jsonl", names)
    embed_names(
        folder / "names.jsonl", folder / "dataset", folder / "names.npz", titles=folder / "titles.npy"
    )
    small: dict[str, Any] = {"hidden": 8, "n_blocks": 1, "max_length": 10, "n_epochs": 2}
    pretrain(folder / "dataset", folder / "titles.npy", folder / "pretrained.npz", PretrainSettings(**small))
    train(
        folder / "dataset",
        folder / "run",
        TrainSettings(**small, n_augmented=8, recall_k=2),
        names=folder / "names.npz",
        pretrained=folder / "pretrained.npz",
    )
    export(
        folder / "run",
        folder / "bundle",
        pretrained=folder / "pretrained.npz",
        text_embeddings=folder / "titles.npy",
    )
    write_measures(folder / "measures.json", measure(folder / "bundle", folder / "dataset"))
    (folder / "fit.toml").write_text('# 1 < 2\n[ingest]\nsource = "s"\n')
    return ReportSources(
        load_config(folder / "fit.toml"),
        folder / "dataset",
        folder / "run",
        folder / "measures.json",
        folder / "bundle",
        names=folder / "names.jsonl",
        embedded_names=folder / "names.npz",
        pretrained=folder / "pretrained.npz",
    )


@pytest.fixture(scope="module")
def html(sources: ReportSources, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("out") / "new" / "report.html"
    write_report(sources, [("ingest", 1.26), ("train", 1234.5)], output)
    return output.read_text(encoding="utf-8")


def test_it_needs_nothing_from_elsewhere(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [a for a in page.attributes if a[0] in ("src", "href") or a[0].startswith("on")]
    assert not re.search(r"url\(|@import|https?:", html)
    assert page.tags.count("svg") == 5


def test_it_tells_what_came_out(html: str, sources: ReportSources) -> None:
    text = " ".join(Page(html).text.split())
    measured = json.loads(sources.measures.read_text())
    for result in measured["test"] + measured["valid"]:
        if result["n_users"] and result["group"] in ("all", "cold"):
            row = f"{result['domain']} {result['group']} {result['scorer']} {result['n_targets']:,}"
            assert f"{row} {result['hr10']:.4f} {result['ndcg10']:.4f}" in text
    for said in measured["verdicts"]:
        assert said in text
    for domain, mix in zip(("food", "tools"), read_bundle(sources.bundle).mix, strict=True):
        for kind, users in (("warm", "with items of it"), ("named", "without, names given")):
            learned = mix.validation[kind]
            gains = [learned[name] for name in ("ndcg10_model", "ndcg10") if learned[name] is not None]
            numbers = "".join(f" {value:.4f}" for value in gains)
            assert f"{domain} {users} {getattr(mix, kind)} {learned['n_users']}{numbers}" in text
    assert "Ranked in the whole domain, at every position of the validation histories." in text
    assert "targets that are in the history: food" in text
    assert "1.3 train 1,234.5" in text
    assert "# 1 < 2" in text
    n_single = sum(n % 3 > 0 for n in range(300))
    assert f"tools by hand {n_single} {n_single} 100.0% 2.0 2 100.0%" in text
    assert "food none 0 0" in text
    for part in measured["test"]:
        if part["scorer"] == "model" and part["n_targets"]:
            assert f"{part['domain']} {part['group']} model {part['n_targets']:,}" in text


def test_examples_have_titles_names_and_pseudo_items(html: str, sources: ReportSources) -> None:
    text = Page(html).text
    titles = load_dataset(sources.dataset).catalogue.titles
    assert html.count('class="example"') == 4
    assert text.count(f"{titles[40]} 50%") + text.count(f"{titles[45]} 50%") == 8  # poolers at zero
    assert text.count("names generated for tools") == 4


def test_titles_cannot_break_the_page(sources: ReportSources, tmp_path: Path) -> None:
    """The evil title is a name of every user here, and so in every example."""
    data = load_dataset(sources.dataset)
    names = [
        GeneratedNames(user, "tools", (EVIL,), "<b>bold</b>")
        for n, user in enumerate(data.train.users)
        if n % 3
    ]
    write_names(tmp_path / "names.jsonl", names)
    embed_names(
        tmp_path / "names.jsonl",
        data,
        tmp_path / "names.npz",
        titles=sources.dataset.parent / "titles.npy",
    )
    changed = replace(
        sources,
        names=tmp_path / "names.jsonl",
        embedded_names=tmp_path / "names.npz",
        generation=tmp_path / "yield.txt",
    )
    (tmp_path / "yield.txt").write_text("9 of 9 answers kept")
    write_report(changed, [], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.text.count(EVIL) >= 4
    assert "9 of 9 answers kept" in page.text


def test_without_a_recall_network(
    small_world: Any, small_run: TrainResult, sources: ReportSources, tmp_path: Path
) -> None:
    export(small_run.run, tmp_path / "bundle")
    write_measures(tmp_path / "measures.json", measure(tmp_path / "bundle", small_world.folder))
    plain = ReportSources(
        sources.config, small_world.folder, small_run.run, tmp_path / "measures.json", tmp_path / "bundle"
    )
    write_report(plain, [], tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Generated names" not in text
    assert "Pre-training" not in text
    assert "How well it ranks" in text
    assert "pseudo items" not in text


def test_a_run_without_metrics_is_named(sources: ReportSources, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("{}\n")
    broken = replace(sources, run=run)
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be read as metrics"):
        write_report(broken, [], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
