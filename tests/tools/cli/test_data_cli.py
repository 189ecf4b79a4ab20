"""The command `ingest`: its figures as JSON, what it refuses, and its counter on a terminal."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result

from llmcdsr_tools.cli.commands import cli


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight users with two items of each domain; one item without a title, one that nobody has."""
    monkeypatch.chdir(tmp_path)
    items = [("item", "domain", "title"), ("a", "food", "A"), ("b", "food", ""), ("c", "tools", "C")]
    items += [("d", "tools", "D"), ("e", "tools", "E")]
    rows = [("user", "item", "timestamp")]
    rows += [(f"u{n}", item, f"2024-01-0{day}") for n in range(8) for day, item in enumerate("acbd", 1)]
    rows += [("short", "a", "2024-01-01")]
    for name, table in (("items", items), ("interactions", rows)):
        with Path(f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
    return tmp_path


def ingest(line: str) -> Result:
    result = CliRunner().invoke(cli, ["ingest", *line.split()])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


FILES = "interactions.csv --items items.csv --domain food --domain tools --split overlapped -o dataset"


def test_json_has_all_that_the_summary_and_the_notes_say(place: Path) -> None:
    found = json.loads(ingest(f"{FILES} --core 1 --json").stdout)
    assert found["domains"] == [
        {"name": "food", "items": 2, "untitled": 1},
        {"name": "tools", "items": 2, "untitled": 0},
    ]
    assert [found[split]["users_overlapped"] for split in ("train", "valid", "test")] == [6, 1, 1]
    assert found["density"] == 1.0
    assert found["dropped"] == {
        "users": 0,
        "items": 1,
        "interactions": 0,
        "short_users": 1,
        "stray_titles": 0,
        "skipped_records": 0,
        "other_items": 0,
        "other_interactions": 0,
    }
    assert found["duplicates"] == 0


@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        ("", ["food", "tools"]),  # all of the file, in order of appearance
        ("--domain tools --domain food", ["tools", "food"]),
    ],
)
def test_domains_are_those_of_the_file_unless_named(place: Path, domains: str, expected: list[str]) -> None:
    line = f"interactions.csv --items items.csv -o dataset --core 1 {domains}"
    assert [d["name"] for d in json.loads(ingest(f"{line} --json").stdout)["domains"]] == expected
    refused = ingest("interactions.csv --items items.csv -o other --domain food --domain garden")
    assert refused.exit_code == 1
    assert "items.csv: no item of domain 'garden'; found 'food', 'tools'" in refused.stderr
    assert not Path("other").exists()
    some = ingest(
        "interactions.csv --items items.csv -o some --core 1 --domain food --split overlapped --json"
    )
    found = json.loads(some.stdout)
    assert (found["dropped"]["other_items"], found["dropped"]["other_interactions"]) == (3, 16)
    assert "3 items and 16 interactions of other domains were left out" in some.stderr


def test_events_of_one_kind_from_a_database_without_items(place: Path) -> None:
    with duckdb.connect("shop.duckdb") as connection:
        connection.execute("CREATE TABLE sales AS SELECT *, 'sale' AS kind FROM 'interactions.csv'")
        connection.execute("INSERT INTO sales SELECT 'u0', 'e', '2024-02-01', 'return'")
    select = [
        "ingest",
        "--query",
        "select * from sales",
        "--database",
        "shop.duckdb",
        "-o",
        "dataset",
        "--json",
    ]
    result = CliRunner().invoke(cli, [*select, "--where", "kind = 'sale'", "--core", "1"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["domains"] == [{"name": "items", "items": 4, "untitled": 4}]
    assert json.loads(Path("dataset/dataset.json").read_text())["source"]["name"] == "the query"
    for line, message in (
        ("-o x", "name a source, or give a --query, not both"),
        ("interactions.csv -o x --database shop.duckdb", "--database: of no effect without --query"),
        ("interactions.csv --items items.csv --items-query x -o x", "give one of them"),
    ):
        refused = ingest(line)
        assert (refused.exit_code, message in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("old -o dataset --core 5", "--core: of no effect, as old is in the official layout"),
        ("old -o dataset --split overlapped --user-column nope", "--split, --user-column: of no effect"),
        (f"{FILES} --split leave-one-out --test-share 0.1", "--test-share: of no effect, as leave-one-out"),
        ("old -o dataset --items items.csv", "the official layout has items of its own"),
        ("interactions.csv --items items.csv -o dataset --domain a --domain a", "1 to 64 different names"),
        (f"{FILES} --user-column item", "one name stands for two columns"),
        (f"{FILES} --valid-share 0.6 --test-share 0.6", "at most 1 together"),
    ],
)
def test_options_that_do_not_go_together_end_with_status_2(place: Path, line: str, message: str) -> None:
    Path("old").mkdir()
    Path("old", "num.txt").touch()
    result = ingest(line)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("dataset").exists()


def test_the_help_tells_which_files_and_timestamps_are_taken(place: Path) -> None:
    text = " ".join(ingest("--help").stdout.split())
    for word in (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".gz", "docs/data.md"):
        assert word in text
