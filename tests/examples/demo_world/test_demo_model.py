"""The demo model from nothing, of a smaller world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo_world.model import make_demo_model
from llmcdsr_lite import Recommender
from llmcdsr_lite.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:  # as `make demo-model` calls it: from where one stands
        patch.chdir(folder.parent)
        make_demo_model(Path(folder.name), n_users=500, report=Path(folder.name) / "report.html")
    return folder


def test_a_bundle_and_histories_that_it_can_score(made: Path) -> None:
    assert sorted(p.name for p in made.iterdir()) == ["demo", "demo-histories.jsonl", "report.html"]
    recommender = Recommender.load(made / "demo")
    for line in (made / "demo-histories.jsonl").read_text().splitlines():
        sample = json.loads(line)
        found = recommender.recommend(sample["history"], domain=sample["domain"], k=3)
        assert [item.domain for item in found] == [sample["domain"]] * 3


def test_what_is_there_is_replaced_only_if_asked(made: Path) -> None:
    with pytest.raises(DataError, match="demo: exists already"):
        make_demo_model(made, n_users=500)
    before = {p.name: p.read_bytes() for p in (made / "demo").iterdir()}
    make_demo_model(made, n_users=500, overwrite=True)
    assert {p.name: p.read_bytes() for p in (made / "demo").iterdir()} == before
