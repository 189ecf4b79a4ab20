"""The index stage: what it says of its graphs is what they do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_tools.ef_search import Measure
from llmcdsr_tools.index import IndexSettings, draw_histories, index
from random_bundle import write_random_bundle

pytest.importorskip("hnswlib", reason="hnswlib is not installed (it needs a compiler)")

SIZES = (700, 1300)
SETTINGS = IndexSettings(M=4, ef_construction=20, recall=0.95, n_users=90)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "bundle"
    write_random_bundle(folder, SIZES, hidden=16, max_length=8)
    return folder


@pytest.fixture(scope="module")
def indexed(plain: Path) -> tuple[Path, tuple[Measure, ...], list[Measure]]:
    tried: list[Measure] = []
    folder = plain.with_name("indexed")
    chosen = index(plain, folder, settings=SETTINGS, observer=tried.append)
    return folder, chosen, tried


def test_the_recall_that_is_wanted(indexed: tuple[Path, tuple[Measure, ...], list[Measure]]) -> None:
    """Requests for other histories than those it was measured on, one at a time, against a full sort."""
    folder, chosen, tried = indexed
    assert [(m.part, m.domain) for m in chosen] == [("items", "a"), ("items", "b"), ("items", "a and b")]
    assert all(m.reached and m.recall >= 0.95 for m in chosen)
    assert all(m.recall < 0.95 for m in tried if m not in chosen)  # a smaller ef did not do
    bundle = read_bundle(folder)
    recommender = Recommender.load(folder, backend="numpy", search="hnsw")
    table = bundle.item_vectors.astype(np.float64)
    histories = draw_histories(bundle, 90, np.random.default_rng(77))
    a, b = bundle.catalogue.domains
    for name, start, stop in (("a", a.start, a.stop), ("b", b.start, b.stop), (None, a.start, b.stop)):
        hits = 0
        for rows in histories:
            ids = [bundle.catalogue.ids[row - 1] for row in rows]
            found = {item.id for item in recommender.recommend(ids, domain=name)}
            user = recommender._ranking.represent([rows], [()])[0]
            scores = table @ user
            scores[rows] = -np.inf
            best = sorted(range(start, stop), key=lambda row: -scores[row])[:10]
            hits += len(found & {bundle.catalogue.ids[row - 1] for row in best})
        assert hits / 900 > 0.92


def test_what_the_bundle_says(indexed: tuple[Path, tuple[Measure, ...], list[Measure]], plain: Path) -> None:
    folder, chosen, _ = indexed
    config, before = (json.loads((path / "config.json").read_text()) for path in (folder, plain))
    items = config["index"]["items"]
    *alone, together = chosen
    assert items["ef_search"] == [m.ef_search for m in alone]
    assert items["ef_search_together"] == together.ef_search <= max(items["ef_search"])
    assert items["measured"]["together"]["recall_at_10"] == round(together.recall, 4)
    assert items["measured"]["graph"] == {"M": 4, "ef_construction": 20, "seed": 0, "threads": 1}
    assert [d["users"] for d in items["measured"]["domains"]] == [90, 90]
    assert [d["recall_at_10"] for d in items["measured"]["domains"]] == [round(m.recall, 4) for m in alone]
    for name, entry in before["files"].items():  # all else is as it was
        assert config["files"][name] == entry


def test_reproducible_and_in_place(
    indexed: tuple[Path, tuple[Measure, ...], list[Measure]], plain: Path
) -> None:
    folder, _, _ = indexed
    entries = {}
    for name in ("index_links.npy", "index_levels.npy", "index_upper.npy"):
        entries[name] = (folder / name).read_bytes()
    index(folder, settings=SETTINGS)  # replaces it
    for name, content in entries.items():
        assert (folder / name).read_bytes() == content
    assert sorted(p.name for p in folder.parent.iterdir()) == ["bundle", "indexed"]


def test_with_a_recall_network(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
) -> None:
    folder = build_bundle(replace(bundle_data, recall=recall_network), tmp_path / "bundle")
    chosen = index(folder, settings=IndexSettings(n_users=20))
    assert [(m.part, m.domain) for m in chosen] == [
        *(("items", "food"), ("items", "kitchen"), ("items", "food and kitchen")),
        *(("recall", "food"), ("recall", "kitchen")),
    ]
    found = read_bundle(folder)
    assert found.index is not None
    assert found.index.recall is not None
    asked = {"domain": "kitchen", "pseudo": ["f4"]}
    graph, exact = (
        [item.id for item in Recommender.load(folder, search=name).recommend(["f3"], **asked)]  # type: ignore[arg-type]
        for name in ("hnsw", "exact")
    )
    assert graph == exact


def test_histories_of_a_file(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "users.jsonl"
    lines = [json.dumps({"user": str(n), "history": [f"a{n}", f"b{n}", "nowhere"]}) for n in range(30)]
    path.write_text("\n".join([json.dumps({"user": "x", "history": ["nowhere"]}), *lines]) + "\n")
    output = tmp_path / "bundle"
    index(plain, output, settings=replace(SETTINGS, n_users=20), histories=path)
    measured = json.loads((output / "config.json").read_text())["index"]["items"]["measured"]
    assert measured["histories"] == "users.jsonl"
    assert [d["users"] for d in measured["domains"]] == [20, 20]
    for text, reason in (
        ('{"user": "x", "history": ["nowhere"]}\n', "no history has an item"),
        ("[]\n", "users.jsonl:1: "),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=reason):
            index(plain, tmp_path / "other", histories=path)
    assert not (tmp_path / "other").exists()


def test_drawn_histories(plain: Path) -> None:
    bundle = read_bundle(plain)
    histories = draw_histories(bundle, 3000, np.random.default_rng(0))
    a, b = bundle.catalogue.domains
    lengths = [len(h) for h in histories]
    assert (min(lengths), max(lengths)) == (1, 8)

    def both(rows: npt.NDArray[np.int64]) -> tuple[bool, bool]:
        return bool((rows < a.stop).any()), bool((rows >= b.start).any())

    assert all(both(h) == (True, False) for h in histories[::3])
    assert all(both(h) == (False, True) for h in histories[1::3])
    rows = np.concatenate(histories[::3])
    assert rows.min() >= 1
    share = np.bincount(rows, minlength=a.stop)[1 : a.stop] / len(rows)
    expected = (bundle.item_counts[1 : a.stop] + 1) / (bundle.item_counts[1 : a.stop] + 1).sum()
    assert np.corrcoef(share, expected)[0, 1] > 0.8


def test_an_output_that_is_there(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(DataError, match="exists already"):
        index(plain, tmp_path)
    with pytest.raises(DataError, match=r"holds letter\.txt, so it is not a bundle"):
        index(plain, tmp_path, overwrite=True)


@pytest.mark.parametrize(("field", "value"), [("recall", 0.0), ("recall", 1.1), ("n_users", 0)])
def test_settings(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{field} must be .*, found {value}"):
        IndexSettings(**{field: value})  # type: ignore[arg-type]


def test_command(
    plain: Path, tmp_path: Path, llmcdsr: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    output = tmp_path / "bundle"
    arguments = ("index", plain, "-o", output, "--users", "10", "--m", "4", "--ef-construction", "20")
    done = llmcdsr(*arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert [line.split(":")[0] for line in lines][:2] == ["items, a", "items, b"]
    assert "recall@10 " in lines[0]
    assert read_bundle(output).index is not None
    again = llmcdsr(*arguments)
    assert again.returncode == 1
    assert b"exists already" in again.stderr
    hard = llmcdsr(*arguments, "--overwrite", "--m", "2", "--recall", "1")
    assert b"--m may help" in hard.stderr or b"recall@10 1.0000" in hard.stdout
