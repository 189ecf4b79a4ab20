from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_damage import set_field
from bundle_loads import BundleLoads

from llmcdsr_lite.errors import BundleError, DataError, UsageError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score import scorer as module
from llmcdsr_lite.score.scorer import Scorer

HISTORIES = [["f1", "k2"], ["nowhere", "f3"], [], ["k5", "f0", "k3"], ["f4"]]
USERS = ["a", "b", "c", "d", "a"]
DOMAINS = [None, "food", None, "kitchen", None]


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    module._loaded.clear()
    yield
    module._loaded.clear()


@pytest.fixture
def n_loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that were loaded."""
    folders: list[Path] = []
    load = Recommender.load

    def noted(folder: Path, **options: Any) -> Recommender:
        folders.append(folder)
        return load(folder, **options)

    monkeypatch.setattr(module.Recommender, "load", noted)
    return folders


def objects(values: list[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.mark.parametrize("batch_size", [1, 2, 256])
@pytest.mark.parametrize("domain", [None, "kitchen"])
def test_answers_are_those_of_a_recommender(bundle_folder: Path, domain: str | None, batch_size: int) -> None:
    scorer = Scorer(bundle_folder, domain=domain, k=4, backend="numpy", batch_size=batch_size)
    answer = scorer({"user": USERS, "history": HISTORIES, "domain": DOMAINS, "other": [0] * 5})
    assert list(answer) == ["user", "items", "scores", "unknown", "fallback", "error"]
    recommender = Recommender.load(bundle_folder, backend="numpy")
    for n, (history, wanted) in enumerate(zip(HISTORIES, DOMAINS, strict=True)):
        expected = recommender.recommend(history, domain=wanted or domain, k=4)
        assert answer["user"][n] == USERS[n]
        assert answer["items"][n] == [item.id for item in expected]
        assert answer["scores"][n] == pytest.approx([item.score for item in expected], abs=1e-5)
        assert answer["unknown"][n] == (1 if n == 1 else 0)
        assert answer["fallback"][n] == (n == 2)
        assert answer["error"][n] is None


def test_settings_reach_the_recommender(bundle_folder: Path) -> None:
    recommender = Recommender.load(bundle_folder, backend="numpy")
    columns = {"user": ["a"], "history": [["f1", "k2"]]}
    seen = Scorer(bundle_folder, k=99, exclude_seen=False, backend="numpy")(columns)
    everything = recommender.recommend(["f1", "k2"], k=99, exclude_seen=False)
    assert seen["items"][0] == [item.id for item in everything]
    assert len(seen["items"][0]) == 30
    assert len(Scorer(bundle_folder, k=99)(columns)["items"][0]) == 28
    assert Scorer(bundle_folder).load().backend_name == "onnx"


@pytest.mark.parametrize(
    "columns",
    [
        {"user": np.array([1, 2]), "history": [("f1",), ("f2", "k1")]},
        {
            "user": objects([1, "2"]),
            "history": objects([np.array(["f1"]), np.array(["f2", "k1"], dtype=object)]),
        },
        {"user": [np.int64(1).item(), 2], "history": objects([["f1"], ["f2", "k1"]]), "domain": [None, None]},
    ],
)
def test_columns_of_any_sort(bundle_folder: Path, columns: dict[str, Any]) -> None:
    scorer = Scorer(bundle_folder, k=3, backend="numpy")
    answer = scorer(columns)
    expected = scorer({"user": ["1", "2"], "history": [["f1"], ["f2", "k1"]]})
    assert answer["user"].tolist() == ["1", "2"]
    assert answer["items"].tolist() == expected["items"].tolist()


def test_two_dimensional_histories(bundle_folder: Path) -> None:
    scorer = Scorer(bundle_folder, k=3, backend="numpy")
    answer = scorer({"user": ["1", "2"], "history": np.array([["f1", "f2"], ["k1", "k2"]])})
    assert answer["items"][1] == scorer({"user": ["2"], "history": [["k1", "k2"]]})["items"][0]


def test_no_rows(bundle_folder: Path) -> None:
    answer = Scorer(bundle_folder, backend="numpy")({"user": [], "history": []})
    assert {name: len(column) for name, column in answer.items()} == dict.fromkeys(module.OUTPUT_COLUMNS, 0)


BAD = [
    ("u1", None, None, "field 'history' must be a list of item ids, found None"),
    ("u1", "f1 f2", None, "field 'history' must be a list of item ids, found 'f1 f2'"),
    ("u1", ["f1", None], None, "field 'history' must be a list of item ids, found ['f1', None]"),
    ("u1", [1.5, 2], None, "field 'history' must be a list of item ids, found [1.5, 2]"),
    ("u1", float("nan"), None, "field 'history' must be a list of item ids, found nan"),
    ("u1", ["f1"], "books", "domain is 'books', expected 'food' or 'kitchen'"),
    ("u1", ["f1"], 3, "field 'domain' must be a string, found 3"),
    (None, ["f1"], None, "field 'user' must be a string or a number, found None"),
    ("u1", ["\udc80"], None, "not valid UTF-8"),
]


@pytest.mark.parametrize(("user", "history", "domain", "reason"), BAD)
def test_bad_rows(bundle_folder: Path, user: Any, history: Any, domain: Any, reason: str) -> None:
    columns = {
        "user": ["u0", user, "u2"],
        "history": objects([["f1"], history, ["f2"]]),
        "domain": [None, domain, "food"],
    }
    message = f"row 1 of the batch, user {user!r}: {reason}"
    with pytest.raises(DataError) as raised:
        Scorer(bundle_folder, backend="numpy")(columns)
    assert str(raised.value) == message
    answer = Scorer(bundle_folder, backend="numpy", on_error="skip", k=3)(columns)
    assert answer["error"].tolist() == [None, message, None]
    assert [len(items) for items in answer["items"]] == [3, 0, 3]
    assert [len(scores) for scores in answer["scores"]] == [3, 0, 3]
    assert answer["user"].tolist() == ["u0", user, "u2"]
    good = Scorer(bundle_folder, backend="numpy", k=3)
    alone = good({"user": ["u2"], "history": [["f2"]], "domain": ["food"]})
    assert answer["items"][2] == alone["items"][0]


@pytest.mark.parametrize("columns", [{}, {"user": []}, {"history": []}, {"users": [], "history": []}])
def test_missing_columns(bundle_folder: Path, columns: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"the columns are \[.*\], expected user and history"):
        Scorer(bundle_folder, backend="numpy")(columns)


@pytest.mark.parametrize(
    "columns", [{"user": ["a"], "history": []}, {"user": [], "history": [], "domain": [None]}]
)
def test_columns_of_other_lengths(bundle_folder: Path, columns: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="values, expected as many in each"):
        Scorer(bundle_folder, backend="numpy")(columns)


def test_whole_numbers_are_item_ids(bundle_folder: Path) -> None:
    answer = Scorer(bundle_folder, backend="numpy")({"user": ["a"], "history": [[10, "f1"]]})
    assert (answer["unknown"][0], answer["error"][0]) == (1, None)  # no item is named 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be at least 1, found 0"),
        ({"batch_size": 0}, "batch_size must be from 1 to 1,048,576, found 0"),
        ({"on_error": "ignore"}, "on_error is 'ignore', expected one of 'fail', 'skip'"),
        ({"pseudo": "always"}, "pseudo is 'always', expected one of 'auto', 'off'"),
        ({"backend": "torch"}, "backend is 'torch', expected one of 'onnx', 'numpy'"),
        ({"search": "fast"}, "search is 'fast', expected one of 'auto', 'exact'"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Scorer("models/none", **settings)


def test_a_bundle_or_domain_that_is_not_there(bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none.config\.json: is missing"):
        Scorer(tmp_path / "none").load()
    with pytest.raises(UsageError, match="no domain is named 'books'"):
        Scorer(bundle_folder, domain="books", backend="numpy").load()


def test_pickled_it_is_a_path_and_settings(bundle_folder: Path) -> None:
    scorer = Scorer(str(bundle_folder), domain="food", k=3, backend="numpy")
    columns = {"user": USERS, "history": HISTORIES}
    answer = scorer(columns)
    data = pickle.dumps(scorer)
    assert len(data) < 400 + len(str(bundle_folder))
    again = pickle.loads(data)
    assert again == scorer
    assert again(columns)["items"].tolist() == answer["items"].tolist()


def test_a_process_loads_a_bundle_once(bundle_folder: Path, n_loads: list[Path]) -> None:
    columns = {"user": USERS, "history": HISTORIES}
    scorers = [Scorer(bundle_folder, k=k, domain=d, backend="numpy") for k in (1, 2) for d in (None, "food")]
    scorers.append(Scorer(os.path.relpath(bundle_folder), backend="numpy"))
    threads = [threading.Thread(target=scorer, args=(columns,)) for scorer in scorers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for scorer in scorers:
        pickle.loads(pickle.dumps(scorer))(columns)
    assert len(n_loads) == 1
    Scorer(bundle_folder, backend="onnx").load()
    assert len(n_loads) == 2


def test_a_replaced_bundle_is_loaded(bundle_folder: Path, tmp_path: Path, n_loads: list[Path]) -> None:
    folder = shutil.copytree(bundle_folder, tmp_path / "model")
    scorer = Scorer(folder, backend="numpy")
    assert scorer.load() is scorer.load()
    (folder / "config.json").rename(folder / "old.json")
    shutil.copy(folder / "old.json", folder / "config.json")
    set_field(folder, ["training", "epoch"], 4)
    assert scorer.load().bundle.training["epoch"] == 4
    assert len(n_loads) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_loads_its_own(bundle_folder: Path, tmp_path: Path) -> None:
    code = f"""
import os
from llmcdsr_lite.score import scorer as module
scorer = module.Scorer({str(bundle_folder)!r})
scorer.load()
module._lock.acquire()  # as if a thread were loading
if not (child := os.fork()):
    os._exit(0 if len(scorer({{"user": ["u"], "history": [["f1"]]}})["items"][0]) == 10 else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    loads = BundleLoads(bundle_folder, tmp_path / "hook")
    subprocess.run([sys.executable, "-c", code], env=loads.environment, check=True, timeout=60)
    assert sorted(loads.count().values()) == [1, 1]
