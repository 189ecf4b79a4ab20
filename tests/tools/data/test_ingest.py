from __future__ import annotations

import csv
import gzip
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from llmcdsr_lite.errors import DataError, LlmcdsrError, UsageError
from llmcdsr_tools.data.dataset import SPLITS, Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.data.dataset_summary import format_summary
from llmcdsr_tools.data.ingest_settings import Columns, IngestSettings
from llmcdsr_tools.data.ingestion import ingest

DOMAINS = ("Food", "Kitchen")
ITEMS = [(f"i{n}", DOMAINS[n % 3 == 0], f"Title {n}" if n % 5 else "") for n in range(40)]


def make_interactions(seed: int = 1) -> list[tuple[str, str, int]]:
    """Interactions of 60 users, some in one domain only, in no order, with ties and rare users and items."""
    rng = random.Random(seed)
    rows = []
    for user in range(60):
        allowed = [i for i, d, _ in ITEMS[:36] if user % 3 == 0 or d == DOMAINS[user % 2]]
        rows += [
            (f"u{user}", rng.choice(allowed[: 4 + user]), rng.randrange(30)) for _ in range(2 + user % 9)
        ]
    rng.shuffle(rows)
    return rows


def write(folder: Path, rows: list[tuple[str, str, int]], suffix: str = ".csv") -> tuple[Path, Path]:
    """Interactions file and items file."""
    return (
        write_table(folder / f"interactions{suffix}", ("user", "item", "timestamp"), rows),
        write_table(folder / f"items{suffix}", ("item", "domain", "title"), ITEMS),
    )


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> Path:
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "wt", encoding="utf-8", newline="") as out:
        if ".jsonl" in path.name:
            out.writelines(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
        else:
            csv.writer(out, delimiter="\t" if ".tsv" in path.name else ",").writerows([header, *rows])
    return path


def brute_force(rows: list[tuple[str, str, int]], core: int) -> dict[str, list[str]]:
    """Histories of item ids after the filter, by the plainest means."""
    while True:
        users = Counter(user for user, _, _ in rows)
        items = Counter(item for _, item, _ in rows)
        fewer = [row for row in rows if users[row[0]] >= core and items[row[1]] >= core]
        if len(fewer) == len(rows):
            break
        rows = fewer
    histories: dict[str, list[str]] = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        histories.setdefault(user, []).append(item)
    return histories


def histories_of(dataset: Dataset, split: str) -> dict[str, list[str]]:
    histories = dataset.split(split)  # type: ignore[arg-type]
    return {
        user: [dataset.catalogue.ids[row - 1] for row in rows]
        for user, rows in zip(histories.users, histories, strict=True)
    }


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".csv.gz", ".jsonl.gz"])
@pytest.mark.parametrize("core", [0, 1, 3, 5])
def test_every_format_gives_the_histories_of_the_brute_force(tmp_path: Path, suffix: str, core: int) -> None:
    rows = make_interactions()
    source, items = write(tmp_path, rows, suffix)
    settings = IngestSettings(domains=DOMAINS, core=core)
    result = ingest(source, tmp_path / "out", items=items, settings=settings)
    dataset = load_dataset(tmp_path / "out")
    expected = brute_force(rows, core)
    found = [histories_of(dataset, split) for split in SPLITS]
    merged = found[0] | found[1] | found[2]
    assert sum(map(len, found)) == len(merged) == len(expected) - result.short_users
    assert merged == {user: history for user, history in expected.items() if user in merged}
    assert all(len(expected[user]) < 2 for user in expected.keys() - merged.keys())

    remaining = (
        {item for history in expected.values() for item in history} if core else {i for i, _, _ in ITEMS}
    )
    in_order = [item for domain in DOMAINS for item, d, _ in ITEMS if d == domain and item in remaining]
    assert list(dataset.catalogue.ids) == in_order
    titles = {item: title for item, _, title in ITEMS}
    assert list(dataset.catalogue.titles) == [titles[item] for item in in_order]
    domains = {item: domain for item, domain, _ in ITEMS}
    assert [d.name for d in dataset.catalogue.domains] == list(DOMAINS)
    for domain in dataset.catalogue.domains:
        assert {domains[i] for i in in_order[domain.start - 1 : domain.stop - 1]} == {domain.name}

    both = [user for user, h in expected.items() if len({domains[item] for item in h}) == 2]
    assert len(found[1]) == len(found[2]) == max(1, round(0.1 * len(both)))
    assert {*found[1], *found[2]} <= set(both)

    assert result.untitled_items == sum(not titles[item] for item in in_order)
    assert result.dropped_users == len({user for user, _, _ in rows}) - len(expected)
    assert result.dropped_items == len(ITEMS) - len(in_order)
    assert result.dropped_interactions == len(rows) - sum(map(len, expected.values()))


def test_the_same_seed_gives_the_same_files_and_another_seed_another_split(tmp_path: Path) -> None:
    source, items = write(tmp_path, make_interactions())
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        settings = IngestSettings(domains=DOMAINS, core=2, seed=seed, valid_share=0.3, test_share=0.3)
        ingest(source, tmp_path / name, items=items, settings=settings)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 12
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "same" / file).read_bytes()
    assert (tmp_path / "one/test_users.json").read_text() != (tmp_path / "other/test_users.json").read_text()


def test_leave_one_out_ends_whole_histories_in_their_targets(tmp_path: Path) -> None:
    rows = make_interactions()
    source, items = write(tmp_path, rows)
    settings = IngestSettings(domains=DOMAINS, core=2, split="leave-one-out")
    result = ingest(source, tmp_path / "out", items=items, settings=settings)
    expected = brute_force(rows, 2)
    train, valid, test = (histories_of(result.dataset, split) for split in SPLITS)
    assert test == {user: h for user, h in expected.items() if len(h) >= 4}
    assert valid == {user: h[:-1] for user, h in expected.items() if len(h) >= 4}
    assert train == {user: h[:-2] if len(h) >= 4 else h for user, h in expected.items() if len(h) >= 2}


def test_a_source_in_the_official_layout(tmp_path: Path, food_kitchen: Path) -> None:
    result = ingest(food_kitchen, tmp_path / "out", settings=IngestSettings(domains=DOMAINS))
    dataset = load_dataset(tmp_path / "out")
    assert [d.name for d in dataset.catalogue.domains] == list(DOMAINS)
    for split, name in (("valid", "valid"), ("test", "test")):
        first = (food_kitchen / f"{name}.txt").read_text().split("\n", 1)[0].split("\t")[1]
        assert dataset.split(split)[0].tolist() == [int(item) + 1 for item in first.split(",")]
    assert result.warnings == []
    header = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert header["source"] == {"layout": "official", "name": food_kitchen.name}
    assert "density" in format_summary(dataset)


def test_settings_and_counts_are_kept_with_the_data(tmp_path: Path) -> None:
    source, items = write(tmp_path, make_interactions())
    result = ingest(source, tmp_path / "out", items=items, settings=IngestSettings(domains=DOMAINS, seed=3))
    kept = json.loads((tmp_path / "out" / "dataset.json").read_text())["source"]
    assert (kept["name"], kept["items"]) == ("interactions.csv", "items.csv")
    assert (kept["settings"]["seed"], kept["settings"]["domains"]) == (3, list(DOMAINS))
    assert kept["dropped_users"] == result.dropped_users > 0
    assert any(f"dropped {result.dropped_users} users" in warning for warning in result.warnings)
    assert any(f"{result.untitled_items} items have no title" in warning for warning in result.warnings)
    assert not any("in no item set" in warning for warning in result.warnings)
    assert "1,234 titles are of items that are in no item set" in replace(result, stray_titles=1234).warnings


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ("Kitchen", "Food", "Garden")),  # in order of appearance
        (("Garden", "Food", "Kitchen"), ("Garden", "Food", "Kitchen")),
    ],
)
def test_three_domains_by_the_plainest_means(
    tmp_path: Path, names: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    rows = make_interactions()
    domain_of = {item: ("Garden" if n % 3 == 2 else domain) for n, (item, domain, _) in enumerate(ITEMS)}
    source, _ = write(tmp_path, rows)
    content = [(item, domain_of[item], title) for item, _, title in ITEMS]
    items = write_table(tmp_path / "three.csv", ("item", "domain", "title"), content)
    settings = IngestSettings(names, core=2, valid_share=0.2, test_share=0.3)
    result = ingest(source, tmp_path / "out", items=items, settings=settings)
    dataset = load_dataset(tmp_path / "out")
    histories = brute_force(rows, 2)
    remaining = {item for history in histories.values() for item in history}
    in_order = [[i for i, _, _ in ITEMS if domain_of[i] == d and i in remaining] for d in expected]
    assert list(dataset.catalogue.ids) == [item for of_domain in in_order for item in of_domain]
    assert [(d.name, d.n_items) for d in dataset.catalogue.domains] == [
        (name, len(of_domain)) for name, of_domain in zip(expected, in_order, strict=True)
    ]
    train, valid, test = (histories_of(dataset, split) for split in SPLITS)
    several = {user for user, h in histories.items() if len({domain_of[item] for item in h}) > 1}
    assert {*valid, *test} <= several
    assert (len(valid), len(test)) == (round(0.2 * len(several)), round(0.3 * len(several)))
    merged = train | valid | test
    assert merged == {user: h for user, h in histories.items() if user in merged}
    assert len(merged) == len(train) + len(valid) + len(test) == len(histories) - result.short_users
    kept = json.loads((tmp_path / "out" / "dataset.json").read_text())
    of_one = [sum({domain_of[i] for i in h} == {name} for h in train.values()) for name in expected]
    assert kept["summary"]["train"]["users_of_one"] == of_one
    assert kept["source"]["settings"]["domains"] == (None if names is None else list(names))


def test_one_domain_by_the_plainest_means(tmp_path: Path) -> None:
    rows = make_interactions()
    source, _ = write(tmp_path, rows)
    content = [(item, "All", title) for item, _, title in ITEMS]
    items = write_table(tmp_path / "one.csv", ("item", "domain", "title"), content)
    histories = brute_force(rows, 2)
    long_enough = {user for user, h in histories.items() if len(h) >= 2}
    for names in (None, ("All",)):
        settings = IngestSettings(names, core=2)
        result = ingest(source, tmp_path / "out", items=items, settings=settings, overwrite=True)
        dataset = load_dataset(tmp_path / "out")
        assert [d.name for d in dataset.catalogue.domains] == ["All"]
        train, valid, test = (histories_of(dataset, split) for split in SPLITS)
        assert len(valid) == len(test) == round(0.1 * len(long_enough))
        assert train | valid | test == {user: histories[user] for user in long_enough}
        assert not any("nothing ties them together" in warning for warning in result.warnings)
    with pytest.raises(DataError, match=r"one\.csv: no item of domain 'Food'; found 'All'"):
        ingest(source, tmp_path / "other", items=items, settings=IngestSettings(("Food",)))


def test_more_domains_than_there_may_be_are_refused(tmp_path: Path) -> None:
    source, _ = write(tmp_path, SMALL)
    content = [(f"i{n}", f"d{n}", "x") for n in range(65)]
    items = write_table(tmp_path / "many.csv", ("item", "domain", "title"), content)
    with pytest.raises(DataError, match=r"many\.csv: 65 domains, expected at most 64; name those to keep"):
        ingest(source, tmp_path / "out", items=items)
    with pytest.raises(DataError, match=r"many\.csv: no domain has 2 items; lower min_items"):
        ingest(source, tmp_path / "out", items=items, settings=IngestSettings(min_items=2))
    with pytest.raises(UsageError, match="1 to 64 different names"):
        IngestSettings(tuple(f"d{n}" for n in range(65)))
    assert not (tmp_path / "out").exists()


def test_the_official_layout_has_two_domains(tmp_path: Path) -> None:
    (tmp_path / "num.txt").touch()
    for names in (("A",), ("A", "B", "C")):
        message = f"the official layout has two domains, found {len(names)} names"
        with pytest.raises(UsageError, match=message):
            ingest(tmp_path, tmp_path / "out" / "x", settings=IngestSettings(names))


SMALL = [(f"u{u}", f"i{i}", t) for u in range(4) for t, i in enumerate((0, 1, 2, 3, 4, 5))]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (SMALL, IngestSettings(DOMAINS, core=7), "the 7-core filter left nothing of 24 interactions"),
        (
            [("u1", "i1", 1), ("u1", "i1", 2), ("u1", "i3", 3)],
            IngestSettings(DOMAINS, core=2),
            "no item of domain 'Kitchen' is left after the 2-core filter",
        ),
        *(
            (
                [("u1", "i1", 1), ("u1", "i2", 2), ("u2", "i1", 3)],
                IngestSettings(DOMAINS, core=core),
                "no interaction has an item of domain 'Kitchen'",
            )
            for core in (0, 1)
        ),
        (
            [(f"u{n % 2}", f"i{1 + 2 * (n % 2)}", n) for n in range(8)],
            IngestSettings(DOMAINS, core=2),
            "0 users have items in several domains, 2 are needed",
        ),
        (
            [("u1", "i1", 1), ("u1", "i2", 2), ("u2", "i3", 3), ("u2", "i6", 3)],
            IngestSettings(DOMAINS, core=1),
            "0 users have items in several domains, 2 are needed",
        ),
        (SMALL[:12], IngestSettings(DOMAINS, core=1), "no training history of two items or more is left"),
        (
            [("u1", "i1", 1), ("u1", "i3", 2)],
            IngestSettings(DOMAINS, core=1, split="leave-one-out"),
            "no history has 4 items; the longest has 2",
        ),
        (SMALL, IngestSettings(("Food", "Garden")), "no item of domain 'Garden'; found 'Kitchen', 'Food'"),
    ],
)
def test_the_step_that_leaves_nothing_is_named(
    tmp_path: Path, rows: list[tuple[str, str, int]], settings: IngestSettings, message: str
) -> None:
    source, items = write(tmp_path, rows)
    with pytest.raises(LlmcdsrError) as caught:
        ingest(source, tmp_path / "out", items=items, settings=settings)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert ("smaller core" in str(caught.value)) == (settings.core > 1 and settings.domains == DOMAINS)
    assert not (tmp_path / "out").exists()


def test_a_core_no_item_of_one_domain_survives_leave_one_out_either(tmp_path: Path) -> None:
    rows = [("u1", f"i{n}", n) for n in (1, 2, 4, 5, 7)] + [("u2", "i3", 9)]
    source, items = write(tmp_path, rows)
    settings = IngestSettings(DOMAINS, core=1, split="leave-one-out")
    result = ingest(source, tmp_path / "out", items=items, settings=settings)
    assert result.short_users == 1
    assert any("nothing ties them together" in warning for warning in result.warnings)


def test_a_source_and_its_items_file_go_together(tmp_path: Path) -> None:
    source, items = write(tmp_path, SMALL)
    with pytest.raises(DataError, match="no item of domain 'Food'; found 'items'"):
        ingest(source, tmp_path / "out", settings=IngestSettings(DOMAINS))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file in it ends in .*and none is of the official layout"):
        ingest(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "num.txt").touch()
    with pytest.raises(UsageError, match="the official layout has items of its own"):
        ingest(tmp_path / "empty", tmp_path / "out", items=items)
    with pytest.raises(DataError, match="not the official layout, it has no"):
        ingest(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="No such file"):
        ingest(tmp_path / "none.csv", tmp_path / "out", items=items, settings=IngestSettings(DOMAINS))


def test_settings_that_the_official_layout_has_no_use_for_are_refused(tmp_path: Path) -> None:
    (tmp_path / "num.txt").touch()
    settings = IngestSettings(DOMAINS, Columns(user="uid"), core=99, split="leave-one-out")
    with pytest.raises(UsageError, match="filtered and split already; leave out columns, core, split"):
        ingest(tmp_path, tmp_path / "out" / "x", settings=settings)


def test_only_a_data_set_is_overwritten_and_only_when_asked(tmp_path: Path) -> None:
    source, items = write(tmp_path, SMALL)
    settings = IngestSettings(DOMAINS, core=0)
    out, other = tmp_path / "out", tmp_path / "other"
    ingest(source, out, items=items, settings=settings)
    with pytest.raises(DataError, match="exists already"):
        ingest(source, out, items=items, settings=settings)
    ingest(source, out, items=items, settings=settings, overwrite=True)
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match=r"holds letter\.txt, so it is not a data set"):
        ingest(source, other, items=items, settings=settings, overwrite=True)
    for path in (tmp_path, source):
        with pytest.raises(DataError, match="is or holds the source"):
            ingest(source, path, items=items, settings=settings, overwrite=True)
    assert (other / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"domains": ("A", "A")}, "1 to 64 different names"),
        ({"domains": ("A", " ")}, "1 to 64 different names"),
        ({"domains": ()}, "1 to 64 different names"),
        ({"core": -1}, "core must be at least 0, found -1"),
        ({"split": "random"}, "split must be one of auto, time, overlapped, leave-one-out, found 'random'"),
        ({"valid_share": -0.1}, "valid_share must be at least 0 and below 1"),
        ({"test_share": 1.0}, "test_share must be at least 0 and below 1, found 1.0"),
        ({"valid_share": float("nan")}, "valid_share must be"),
        ({"valid_share": 0.6, "test_share": 0.6}, "must be at most 1 together"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        IngestSettings(**settings)  # type: ignore[arg-type]


def test_summary_by_hand(tmp_path: Path) -> None:
    rows = [("u1", "i0", 1), ("u1", "i1", 2), ("u1", "i2", 3), ("u2", "i1", 1), ("u2", "i2", 2)]
    rows += [("u3", "i0", 1), ("u3", "i3", 1), *((f"v{n}", f"i{n}", n) for n in range(4))]
    source, items = write(tmp_path, rows)
    settings = IngestSettings(DOMAINS, core=1, valid_share=0, test_share=1 - 1e-9)
    result = ingest(source, tmp_path / "out", items=items, settings=settings)
    # u1 is the one overlapped user and held out; u2 has Food only, u3 Kitchen only; v0..v3 are too short
    assert result.short_users == 4
    assert format_summary(result.dataset).split("\n") == [
        "items    all  untitled",
        "Food       2         0",
        "Kitchen    2         1",
        "",
        "                train  valid  test",
        "users               2      0     1",
        "  Food only         1      0     0",
        "  Kitchen only      1      0     0",
        "  overlapped        0      0     1",
        "interactions        4      0     3",
        "  Food              2      0     2",
        "  Kitchen           2      0     1",
        "history length",
        "  shortest          2      0     3",
        "  median            2      0     3",
        "  mean           2.00   0.00  3.00",
        "  longest           2      0     3",
        "",
        "training density 50.0000%",
    ]
