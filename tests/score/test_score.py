from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scored_files import SETTINGS, names, parsed

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score import batches
from llmcdsr_lite.score.job import ScoreSettings, ScoreSummary, score_histories

MIXED = (
    '{"user": "u1", "history": ["f1", "k2"]}\n'
    '{"user": 2, "history": ["nowhere", "f3"], "domain": "food"}\n'
    '{"user": "ü, 3", "history": []}\n'
    '{"user": "u1", "history": ["k5"], "domain": "kitchen"}\n'
)


def answers(recommender: Recommender, titles: bool) -> list[tuple[str, Any, str]]:
    """User, answer and its items in JSON, written by hand, for `MIXED`."""
    made = []
    for line in MIXED.splitlines():
        record = json.loads(line)
        answer = recommender.recommend(record["history"], domain=record.get("domain"), k=3)
        items = []
        for item in answer:
            extra = f', "domain": "{item.domain}", "title": {json.dumps(item.title, ensure_ascii=False)}'
            items.append(f'{{"id": "{item.id}", "score": {round(item.score, 6)}{extra if titles else ""}}}')
        made.append((str(record["user"]), answer, ", ".join(items)))
    return made


@pytest.mark.parametrize("titles", [False, True])
def test_jsonl_output(recommender: Recommender, tmp_path: Path, titles: bool) -> None:
    (tmp_path / "in.jsonl").write_text(MIXED, encoding="utf-8")
    job = replace(SETTINGS, titles=titles, batch_size=1)
    summary = score_histories(recommender, tmp_path / "in.jsonl", tmp_path / "out.jsonl", job)
    expected = [
        f'{{"user": "{user}", "items": [{items}], "unknown": {len(answer.unknown_items)}, '
        f'"fallback": {"true" if answer.fallback else "false"}}}\n'
        for user, answer, items in answers(recommender, titles)
    ]
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "".join(expected)
    assert [a.fallback for _, a, _ in answers(recommender, titles)] == [False, False, True, False]
    assert summary == ScoreSummary(records=4, users=4, bad=0, unknown_items=1, fallbacks=1)
    assert names(tmp_path) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("titles", [False, True])
def test_csv_output(recommender: Recommender, tmp_path: Path, titles: bool) -> None:
    (tmp_path / "in.jsonl").write_text(MIXED, encoding="utf-8")
    job = replace(SETTINGS, titles=titles, batch_size=1)
    score_histories(recommender, tmp_path / "in.jsonl", tmp_path / "out.csv", job)
    expected = ["user,rank,item,score,fallback" + (",domain,title" if titles else "")]
    for user, answer, _ in answers(recommender, titles):
        for rank, item in enumerate(answer, 1):
            quoted_user = f'"{user}"' if "," in user else user
            title = '"' + item.title.replace('"', '""') + '"' if "," in item.title else item.title
            extra = f",{item.domain},{title}" if titles else ""
            line = f"{quoted_user},{rank},{item.id},{round(item.score, 6)},{int(answer.fallback)}{extra}"
            expected.append(line)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "\n".join(expected) + "\n"


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz"])
def test_gzip_output(recommender: Recommender, source: Path, tmp_path: Path, suffix: str) -> None:
    plain, packed = tmp_path / f"out{suffix}".removesuffix(".gz"), tmp_path / f"out{suffix}"
    for path in (plain, packed):
        score_histories(recommender, source, path, SETTINGS)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert plain.stat().st_size > 1000


def test_formats_may_be_named(recommender: Recommender, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("user,history\nu1,f1;k2\n")
    job = ScoreSettings(k=2, input_format="csv", output_format="csv", separator=";")
    score_histories(recommender, tmp_path / "in", tmp_path / "out", job)
    ids = [item.id for item in recommender.recommend(["f1", "k2"], k=2)]
    rows = list(csv.reader(io.StringIO((tmp_path / "out").read_text())))
    assert [row[:3] for row in rows[1:]] == [["u1", "1", ids[0]], ["u1", "2", ids[1]]]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50, 1000])
@pytest.mark.parametrize("backend", ["numpy", "onnx"])
def test_order_is_kept_in_batches_of_any_size(
    bundle_folder: Path, source: Path, tmp_path: Path, batch_size: int, backend: Any
) -> None:
    recommender = Recommender.load(bundle_folder, backend=backend)
    job = replace(SETTINGS, batch_size=batch_size, domain="food")
    summary = score_histories(recommender, source, tmp_path / "out.jsonl", job)
    records = parsed(source)
    for record, line in zip(records, parsed(tmp_path / "out.jsonl"), strict=True):
        answer = recommender.recommend(record["history"], k=3, domain=record.get("domain", "food"))
        assert line["user"] == record["user"]
        assert [item["id"] for item in line["items"]] == [item.id for item in answer]
        assert [i["score"] for i in line["items"]] == pytest.approx([i.score for i in answer], abs=1e-5)
        assert (line["unknown"], line["fallback"]) == (len(answer.unknown_items), answer.fallback)
    unknown = sum(r["history"].count("nowhere") for r in records)
    empty = sum(not set(r["history"]) - {"nowhere"} for r in records)
    assert empty > 0
    assert summary == ScoreSummary(50, 50, 0, unknown, empty)


def test_seen_items_may_be_included(recommender: Recommender, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"user": "u", "history": ["f1", "f2"]}')
    job = ScoreSettings(k=30, exclude_seen=False)
    score_histories(recommender, tmp_path / "in.jsonl", tmp_path / "out.jsonl", job)
    assert len(parsed(tmp_path / "out.jsonl")[0]["items"]) == 30


def test_a_k_beyond_all_reason(recommender: Recommender, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"user": "u", "history": ["f1", "f2"]}')
    score_histories(recommender, tmp_path / "in.jsonl", tmp_path / "out.jsonl", ScoreSettings(k=10**12))
    assert len(parsed(tmp_path / "out.jsonl")[0]["items"]) == 28


BAD = (
    '{"user": "u1", "history": ["f1"]}\n'
    "\n"
    "oops\n"
    '{"user": "u2", "history": ["f2"], "domain": "books"}\n'
    '{"user": "u3", "history": ["f3"]}\n'
)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_bad_records_are_left_out_and_reported(
    recommender: Recommender, tmp_path: Path, batch_size: int
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(BAD)
    reports: list[str] = []
    job = replace(SETTINGS, on_error="skip", batch_size=batch_size)
    summary = score_histories(recommender, source, tmp_path / "out.jsonl", job, report=reports.append)
    assert [line["user"] for line in parsed(tmp_path / "out.jsonl")] == ["u1", "u3"]
    assert summary == ScoreSummary(records=4, users=2, bad=2)
    assert reports == [
        f"{source}:3: not valid JSON: Expecting value: line 1 column 1 (char 0)",
        f"{source}:4: domain is 'books', expected 'food' or 'kitchen'",
    ]


def test_a_bad_record_stops_the_job_and_leaves_nothing(recommender: Recommender, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(BAD)
    with pytest.raises(DataError, match=f"^{source}:3: not valid JSON"):
        score_histories(recommender, source, tmp_path / "out.jsonl", replace(SETTINGS, batch_size=1))
    assert names(tmp_path) == ["in.jsonl"]


def test_a_failed_job_leaves_the_old_output(recommender: Recommender, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(BAD)
    output.write_text("old")
    with pytest.raises(DataError):
        score_histories(recommender, source, output)
    assert output.read_text() == "old"
    assert names(tmp_path) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    "output", [".", "folder", "link", "pipe", "in.jsonl", "hard.jsonl", "no/where.jsonl"]
)
def test_outputs_that_are_refused_at_once(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(MIXED, encoding="utf-8")
    Path("folder").mkdir()
    Path("link").symlink_to("/dev/null")
    os.mkfifo("pipe")
    os.link("in.jsonl", "hard.jsonl")
    before = names(tmp_path)
    with pytest.raises(DataError, match=f"^{re.escape(output)}"):
        score_histories(recommender, Path("in.jsonl"), Path(output))
    assert names(tmp_path) == before
    assert Path("in.jsonl").read_text(encoding="utf-8") == MIXED


def test_missing_input(recommender: Recommender, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read: No such file"):
        score_histories(recommender, tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreSettings(k=0), "k must be at least 1, found 0"),
        (lambda: ScoreSettings(batch_size=0), "batch_size must be from 1 to 1,048,576, found 0"),
        (lambda: ScoreSettings(batch_size=10**20), "batch_size must be from 1 to 1,048,576, found 1000"),
        (lambda: ScoreSettings(on_error="ignore"), "on_error is 'ignore', expected one of 'fail', 'skip'"),  # type: ignore[arg-type]
        (lambda: ScoreSettings(pseudo="on"), "pseudo is 'on', expected one of 'auto', 'off'"),  # type: ignore[arg-type]
        (lambda: ScoreSettings(input_format="xml"), "input_format is 'xml', expected one of 'jsonl', 'csv'"),  # type: ignore[arg-type]
        (lambda: ScoreSettings(output_format="xml"), "output_format is 'xml', expected one of"),  # type: ignore[arg-type]
        (lambda: ScoreSettings(separator=""), "separator must not be empty"),
    ],
)
def test_settings_that_cannot_be_meant(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_unknown_domain_is_refused_before_anything_is_read(recommender: Recommender, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no domain is named 'books'"):
        score_histories(recommender, tmp_path / "none", tmp_path / "out", ScoreSettings(domain="books"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv"])
def test_empty_input(recommender: Recommender, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("" if name.endswith("jsonl") else "user,history\n")
    for output, expected in (("out.jsonl", ""), ("out.csv", "user,rank,item,score,fallback\n")):
        assert score_histories(recommender, tmp_path / name, tmp_path / output) == ScoreSummary()
        assert (tmp_path / output).read_text() == expected


def test_standard_input_and_output(
    recommender: Recommender, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_histories(recommender, source, tmp_path / "out.jsonl", SETTINGS)
    out = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdin", types.SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(source.read_bytes())))
    )
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=out))
    score_histories(recommender, Path("-"), Path("-"), SETTINGS)
    assert out.getvalue() == (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(UsageError, match="standard output cannot be resumed"):
        score_histories(recommender, source, Path("-"), SETTINGS, resume=True)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@example(users=["a\rb", "a\r\nb", "\n"])
@given(users=st.lists(TEXT, max_size=5))
@settings(max_examples=60)
def test_users_of_any_text_come_back(
    recommender: Recommender, tmp_path_factory: pytest.TempPathFactory, users: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_text"
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"user": user, "history": ["f1"]}) + "\n" for user in users]
    (folder / "in.jsonl").write_text("".join(lines))
    for name in ("out.jsonl", "out.csv"):
        score_histories(recommender, folder / "in.jsonl", folder / name, ScoreSettings(k=1))
    with (folder / "out.jsonl").open(encoding="utf-8", newline="\n") as file:
        assert [json.loads(line)["user"] for line in file] == users
    with (folder / "out.csv").open(encoding="utf-8", newline="") as file:
        assert [row[0] for row in csv.reader(file, strict=True)][1:] == users


def test_no_more_than_a_batch_is_read_ahead(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def endless(*_: Any) -> Iterator[batches.HistoryRecord]:
        nonlocal read
        while True:
            read += 1
            yield batches.HistoryRecord(read, str(read), ["f1"])

    done: list[tuple[int, int]] = []

    def stop(summary: ScoreSummary) -> None:
        done.append((read, summary.users))
        if len(done) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(batches, "read_histories", endless)
    with pytest.raises(KeyboardInterrupt):
        score_histories(recommender, tmp_path / "in", tmp_path / "out", SETTINGS, progress=stop)
    assert done == [(n, n) for n in (4, 8, 12, 16, 20)]
