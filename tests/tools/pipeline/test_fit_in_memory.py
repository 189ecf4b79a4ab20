"""From a frame to a recommender in a few lines of Python, with nothing written where a user would see it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.errors import DataError, SettingsError, UsageError
from llmcdsr_tools import Dataset, fit
from llmcdsr_tools.evaluation.model_evaluation import evaluate
from llmcdsr_tools.pipeline.fitting import FitResult
from llmcdsr_tools.pipeline.observer import FitObserver, StageOutcome
from llmcdsr_tools.train.training import Observer

pandas = pytest.importorskip("pandas")

KINDS = ("sweet", "sour", "salty", "bitter")
SHORT: dict[str, Any] = {"n_epochs": 2, "hidden": 8, "n_blocks": 1, "n_negatives": 16, "refit": False}
BY_DEFAULT = {**SHORT, "refit": None}


def frames(seed: int = 3) -> tuple[Any, Any]:
    """Events of users of a taste each, over some months, and the items."""
    rng = random.Random(seed)
    items = [
        {"sku": f"{domain[0]}{n}", "category": domain, "name": f"{KINDS[n % 4]} {domain} {n}"}
        for domain in ("food", "pans")
        for n in range(24)
    ]
    events = []
    for user in range(120):
        taste = [item for item in items if item["name"].startswith(KINDS[user % 4])]
        for _ in range(10):
            moment = pandas.Timestamp("2024-01-01") + pandas.Timedelta(hours=rng.randrange(3000))
            events.append({"customer_id": user, "sku": rng.choice(taste)["sku"], "date": moment})
    return pandas.DataFrame(events), pandas.DataFrame(items)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset.from_interactions(*frames())


class Ran(FitObserver):
    def __init__(self) -> None:
        self.names: list[str] = []

    def done(self, outcome: StageOutcome) -> None:
        self.names += [] if outcome.cached else [outcome.name]


def test_from_a_frame_to_a_recommender(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = fit(data, **SHORT)
    assert list(tmp_path.iterdir()) == []
    assert data.test_positions == "every"
    assert {m.domain for m in result.metrics.test} == {"food", "pans"}
    assert sum(m.n_targets for m in result.metrics.test if (m.scorer, m.group) == ("model", "all")) > 100
    assert "NDCG" in result._repr_html_()
    page = result.report("report.html")
    assert "Every item that came after the moment of the split" in page.read_text(encoding="utf-8")
    assert "fit(data, " in page.read_text(encoding="utf-8")
    answers = result.recommender.recommend(["f0", "p4"], domain="pans", k=3)
    assert [entry["domain"] for entry in answers.to_dicts()] == ["pans"] * 3
    grown = result.recommender.add_items([{"id": "new", "domain": "food", "title": "sour food of today"}])
    assert all(item.title.startswith("sour") for item in grown.similar("new", k=3))
    result.recommender.save("bundle")
    assert (
        Recommender.load("bundle").recommend(["f0", "p4"], domain="pans", k=3).to_dicts()
        == answers.to_dicts()
    )


def test_refitted_where_the_newest_is_held_out(data: Dataset, tmp_path: Path) -> None:
    result = fit(data, **BY_DEFAULT, work=tmp_path)
    assert [stage.name for stage in result.stages][-3:] == ["evaluate", "refit", "report"]
    config = read_bundle(result.bundle).training
    assert config["refitted"]["interactions"] == 1200 > config["training_interactions"]
    assert "refitted" not in read_bundle(made(result, "export")).training
    measured = evaluate([made(result, "export")], made(result, "ingest"))
    assert result.metrics.test == measured.measures
    page = result.report().read_text(encoding="utf-8")
    assert "trained again on all 120 histories" in page
    assert result.table().endswith("Figures are of the model before it was trained again on all histories.")
    kept = fit(data, **SHORT, work=tmp_path)
    assert "trained again" not in kept.report().read_text(encoding="utf-8") + kept.table()
    assert [stage.name for stage in kept.stages][-2:] == ["evaluate", "report"]
    assert kept.bundle == made(result, "export")
    pairs = fit(replace(data, test_positions="last"), **BY_DEFAULT, work=tmp_path)
    assert "refit" not in [stage.name for stage in pairs.stages]


def made(result: FitResult, stage: str) -> Path:
    return next(s.output for s in result.stages if s.name == stage)


def test_the_same_call_does_nothing_again_and_other_data_all(data: Dataset) -> None:
    first, again, other = Ran(), Ran(), Ran()
    fit(data, **SHORT, observer=first)
    result = fit(Dataset.from_interactions(*frames()), **SHORT, observer=again)
    assert again.names == []
    fit(Dataset.from_interactions(*frames(seed=4)), **SHORT, observer=other)
    assert other.names == [stage.name for stage in result.stages]


def test_a_call_that_is_interrupted_goes_on(data: Dataset, tmp_path: Path) -> None:
    class Stop(Observer):
        def epoch(self, metrics: Any, improved: list[str]) -> None:
            raise KeyboardInterrupt

    class Stopped(Ran):
        training = Stop()

    whole = fit(data, **SHORT, work=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(data, **SHORT, work=tmp_path / "work", observer=Stopped())
    gone_on = Ran()
    result = fit(data, **SHORT, work=tmp_path / "work", observer=gone_on)
    assert gone_on.names == [
        stage.name for stage in result.stages if stage.name not in ("ingest", "embed", "pretrain")
    ]
    for path in whole.bundle.iterdir():
        assert (result.bundle / path.name).read_bytes() == path.read_bytes()


def test_an_encoder_object(data: Dataset) -> None:
    class Letters:
        """Vectors of letter counts."""

        def __init__(self, scale: float) -> None:
            self.scale = scale

        def encode(self, texts: list[str]) -> Any:
            return np.array(
                [[self.scale * text.count(c) + 0.1 for c in "abcdefst"] for text in texts], np.float32
            )

    ran = Ran()
    result = fit(data, encoder=Letters(1.0), **SHORT)
    fit(data, encoder=Letters(1.0), **SHORT, observer=ran)
    assert ran.names == []
    fit(data, encoder=Letters(2.0), **SHORT, observer=ran)
    assert "embed" in ran.names
    grown = result.recommender.add_items([{"id": "new", "domain": "food", "title": "bitter food"}])
    assert len(grown.similar("new", k=3)) == 3


def test_the_next_day_goes_on_from_the_bundle(tmp_path: Path) -> None:
    events, items = frames()
    yesterday = fit(Dataset.from_interactions(events, items), **BY_DEFAULT).bundle
    more = pandas.DataFrame(
        [{"customer_id": n, "sku": "f-new", "date": pandas.Timestamp("2024-05-10")} for n in range(6)]
    )
    new = pandas.DataFrame([{"sku": "f-new", "category": "food", "name": "sweet food of the day"}])
    today = Dataset.from_interactions(pandas.concat([events, more]), pandas.concat([items, new]))
    result = fit(today, start_from=yesterday, n_epochs=1)
    assert "f-new" in result.recommender.items
    old, grown = Recommender.load(yesterday), result.recommender
    assert grown.item_vectors(["f0"]).shape == old.item_vectors(["f0"]).shape == (1, 8)
    with pytest.raises(
        SettingsError, match=r"hidden is 16, but the model to start from, .* has 8; leave it out"
    ):
        fit(today, start_from=yesterday, hidden=16)


def test_what_cannot_be_meant(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unexpected keyword argument 'n_epoch'"):
        fit(data, n_epoch=3)
    with pytest.raises(SettingsError, match="n_epochs must be at least 1, found 0"):
        fit(data, n_epochs=0)
    with pytest.raises(SettingsError, match="threads must be a whole number, found '2'"):
        fit(data, threads="2")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="members must be at least 1, found 0"):
        fit(data, members=0)
    with pytest.raises(UsageError, match="data is of the type list, expected a Dataset"):
        fit([("u", "i", 1)])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="start_from is of the type Dataset, expected the folder"):
        fit(data, start_from=data)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: cannot be written: File exists"):
        fit(data, work=tmp_path / "file")
    with pytest.raises(UsageError, match="a configuration says all"):
        fit(tmp_path / "fit.toml", members=2)


def test_lines_tell_of_it_where_somebody_looks(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(data, **SHORT)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(__import__("sys").modules, "ipykernel", None)
    fit(data, **SHORT)
    assert "train: done before" in capsys.readouterr().err
