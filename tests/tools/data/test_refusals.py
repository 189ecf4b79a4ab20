"""What cannot be read, and what a user is told: file, line, what was found and what was expected."""

from __future__ import annotations

import contextlib
import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.errors import DataError, LlmcdsrError
from llmcdsr_tools.data.events import EventTable, read_events
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.ingestion import ingest
from llmcdsr_tools.data.sources import MAX_LINE

ITEMS = "item,domain,title\njam,Food,Jam\npan,Kitchen,Pan\ntea,Food,Tea\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text(ITEMS)
    return tmp_path


def read(path: Path, content: str | bytes, **how: str) -> EventTable:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_events(path, path.parent / "items.csv", IngestSettings(**how))  # type: ignore[arg-type]


HEAD = "user,item,timestamp\n"
GOOD = "u,tea,1\n"


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("x.csv", HEAD + GOOD + "u,tea,1,2\n", 3, "4 fields, expected 3 as in the header"),
        ("x.csv", HEAD + GOOD + "u,tea\n", 3, "2 fields, expected 3 as in the header"),
        ("x.csv", "user,thing,timestamp\n1,2,3\n", 1, "no column is named 'item'; found 'user', 'thing'"),
        ("x.csv", "user,item,timestamp,user\n1,2,3,4\n", 1, "more than one column is named 'user'"),
        ("x.csv", "User,user,item,timestamp\n1,2,3,4\n", 1, "more than one column is named 'user'"),
        ("x.csv", HEAD + GOOD + HEAD + GOOD, 3, "the header line again"),
        ("x.csv", HEAD.encode() + b"u,tea,1\n\xff,tea,4\n", 3, "not UTF-8"),
        ("x.csv", (HEAD + GOOD).encode("utf-16"), 1, "NUL byte"),
        ("x.csv", HEAD + GOOD + "u\0,tea,1\n", 3, "NUL byte"),
        ("x.csv", HEAD + GOOD + '"u,tea,1\nv,tea,2\n', 3, "a quote is not closed"),
        ("x.csv", HEAD + GOOD + '"u"x,tea,1\n', 3, "a quote is not closed, or text follows the closing one"),
        ("x.csv", HEAD + "u,tea," + "2" * MAX_LINE + "\n", 2, "longer than 1,048,576 bytes"),
        ("x.tsv", HEAD.replace(",", "\t") + "u\ttea\t1\nu,tea,1\n", 3, "1 fields, expected 3"),
        ("x.jsonl", '{"user": 1, "item": "tea", "timestamp": 1}\n{"user": 1,\n', 2, "not a line of JSON"),
        (
            "x.jsonl",
            '{"user": 1, "item": "tea", "timestamp": 1}\n\n[1, 2]\n',
            3,
            "a JSON array, expected an object",
        ),
        ("x.jsonl", '{"user": 1, "item": "tea", "timestamp": 1}\n7\n', 2, "expected an object"),
        (
            "x.jsonl",
            '{"user": 1, "item": "tea", "timestamp": 1}\n{"user": 1, "timestamp": 2}\n',
            2,
            "item id is empty",
        ),
        (
            "x.jsonl",
            '{"user": 1, "item": [2], "timestamp": 1}\n',
            1,
            "'item' is a JSON array, expected text or a number",
        ),
        (
            "x.jsonl",
            '{"user": true, "item": "tea", "timestamp": 1}\n',
            1,
            "'user' is a JSON boolean, expected text",
        ),
        ("x.jsonl", '{"user": "\\ud800", "item": "tea", "timestamp": 1}\n', 1, "not a line of JSON"),
        ("x.jsonl", '{"user": "\\u0000", "item": "tea", "timestamp": 1}\n', 1, "NUL byte"),
        (
            "x.jsonl",
            '{"user": 1, "item": "tea", "timestamp": 1}\n' + "[" * 100_000 + "\n",
            2,
            "not a line of JSON",
        ),
        ("x.ndjson", b'{"user": "\xff", "item": "tea", "timestamp": 1}\n', 1, "not UTF-8"),
    ],
)
def test_bad_content_is_refused_with_its_line(
    folder: Path, name: str, content: str | bytes, line: int, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(folder / name, content)
    (said, *_) = str(caught.value).splitlines()
    assert said.startswith(f"{folder / name}:{line}: ")
    assert message in said
    assert len(said) < len(str(folder)) + 250


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("u,nut,1,Food", "item 'nut' is not in the items"),
        ("u,,1,Food", "the item id is empty"),
        ("u, ,1,Food", "the item id is empty"),
        (",tea,1,Food", "the user id is empty"),
        ("  ,tea,1,Food", "the user id is empty"),
        ("\u3000,tea,1,Food", "the user id is empty"),
        ("u,tea,yesterday,Food", "timestamp 'yesterday' is neither a number nor an ISO 8601 date"),
        ("u,tea,,Food", "the timestamp is empty"),
        ("u,tea,2024-01-03,Food", "timestamp '2024-01-03' is a date among numbers; expected numbers alone"),
        ("u,tea,2024-02-30,Food", "timestamp '2024-02-30' is neither"),
        ("u,tea,nan,Food", "timestamp 'nan' is neither"),
        ("u,tea,-inf,Food", "timestamp '-inf' is neither"),
        ("u,tea,1_000,Food", "timestamp '1_000' is neither"),
        ("u,tea,0x10,Food", "timestamp '0x10' is neither"),
        ("u,tea,1e999,Food", "timestamp '1e999' is not finite"),
        ("u,tea,9223372036854775808,Food", "timestamp '9223372036854775808' is beyond 64 bits"),
        ("u,tea,1,Kitchen", "item 'tea' with domain 'Kitchen', but the items have it in 'Food'"),
        ("u,tea,1,Garden", "item 'tea' with domain 'Garden', but the items have it in 'Food'"),
        ("user,item,timestamp,domain", "the header line again"),
        (f"u,{'nut' * 40_000},1,Food", "item 'nutnut"),
    ],
)
def test_bad_interactions_are_refused_with_their_line(folder: Path, row: str, message: str) -> None:
    text = f'user,item,timestamp,domain\n"u\nv",tea,1,Food\n\nu,pan,2,Kitchen\n{row}\nu,jam,3,Food\n'
    with pytest.raises(DataError) as caught:
        read(folder / "x.csv", text)
    assert str(caught.value).startswith(
        f"{folder / 'x.csv'}:6: {message}"
    )  # a cell of two lines, and a blank one
    assert len(str(caught.value)) < len(str(folder)) + 200


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (("2024-01-01", "20240102"), "'20240102' is a number among dates; expected numbers alone or dates"),
        (("5", "2024-01-01"), "timestamp '2024-01-01' is a date among numbers"),
        (("1.5", "9007199254740993"), r"timestamps: '9007199254740993' is a whole number beyond 2\*\*53"),
    ],
)
def test_what_would_be_misordered_is_refused(folder: Path, times: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(folder / "x.csv", HEAD + "".join(f"u,tea,{time}\n" for time in times))


def test_the_first_five_are_told_and_the_others_counted(folder: Path) -> None:
    rows = "".join(f"u,{'nut' if n % 2 else 'tea'},{n}\n" for n in range(40))
    with pytest.raises(DataError) as caught:
        read(folder / "x.csv", HEAD + rows)
    said = str(caught.value).split("\n  ")
    assert said == [
        *(f"{folder / 'x.csv'}:{line}: item 'nut' is not in the items" for line in (3, 5, 7, 9, 11)),
        "and 15 more",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("pan,Kitchen,Pan\ntea,,Tea\n", "items.csv:3: the domain is empty"),
        ("pan,Kitchen,Pan\n ,Food,Tea\n", "items.csv:3: the item id is empty"),
        ("pan,Kitchen,Pan\ntea,Food,T\0\n", "items.csv:3: holds a NUL byte"),
        (
            "pan,Kitchen,Pan\ntea,Food,Tea\npan,Kitchen,X\n",
            "items.csv:4: item 'pan' is listed twice; it was first on line 2",
        ),
        (
            "pan,Kitchen,Pan\ntea,Food,Tea\npan,Food,X\n",
            "items.csv:4: item 'pan' is in two domains; it was first on line 2",
        ),
        ("item,domain,title\n", "items.csv:2: the header line again"),
        ("", "items.csv: no items after the header"),
    ],
)
def test_bad_items_are_refused(folder: Path, content: str, message: str) -> None:
    (folder / "items.csv").write_text(f"item,domain,title\n{content}")
    (folder / "x.csv").write_text(HEAD + GOOD)
    with pytest.raises(DataError) as caught:
        read_events(folder / "x.csv", folder / "items.csv", IngestSettings())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "the file is empty"),
        ("x.csv", b"\n\r\n", "the file is empty"),
        ("x.csv", HEAD.encode(), "no interactions after the header"),
        ("x.csv.gz", b"", "the file is empty"),
        ("x.csv.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("x.csv.gz", (HEAD + GOOD).encode(), "does not hold gzip data"),
        ("x.csv", gzip.compress((HEAD + GOOD).encode(), mtime=0), "its name must end in .gz"),
        ("x.csv.gz", gzip.compress((HEAD + GOOD * 99_999).encode(), mtime=0)[:300], "cannot be read: .*GZIP"),
        ("x.csv.zst", (HEAD + GOOD).encode(), "cannot be read: "),
        ("x.parquet", b"PAR1 no", "cannot be read: "),
        ("x.txt", (HEAD + GOOD).encode(), "the format is told by the name"),
        ("x.json", b"{}", ".jsonl"),
    ],
)
def test_files_that_are_not_what_their_name_says_are_refused(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(folder / name, content)
    assert str(folder / name) in str(caught.value)


def test_missing_files_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        read_events(folder / "none.csv", None, IngestSettings())


@given(st.sampled_from([".csv", ".tsv", ".jsonl", ".csv.gz", ".parquet"]), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"x{suffix}"
        path.write_bytes(content)
        with contextlib.suppress(LlmcdsrError):
            assert len(read_events(path, None, IngestSettings()).times)


def test_what_is_harmless_is_taken(folder: Path) -> None:
    text = '\ufeffuser,item,timestamp,more\r\n\r\nu,tea,1,\r\n"v ""x""",pan,2,"a,\r\nb"'
    table = read(folder / "x.csv", text)
    assert table.user_ids == ["u", 'v "x"']
    table = read(folder / "x.csv", ",user,item,timestamp,\n0,u,tea,1,\n")  # an index, a comma too many
    assert table.user_ids == ["u"]
    first, last = (
        '{"user":"u","item":"tea","timestamp":1}',
        '{"item":"pan","user":2,"timestamp":"3","domain":null}',
    )
    table = read(folder / "x.jsonl", f"\ufeff{first}\r\n \r\n{last}")
    assert table.user_ids == ["u", "2"]


def test_bad_records_are_skipped_and_kept_beside_the_data_set(folder: Path) -> None:
    rows = "".join(f"u{n},{item},{n}\n" for n in range(4) for item in ("tea", "jam", "pan", "tea"))
    (folder / "x.csv").write_text(HEAD + "u,nut,1\n" + rows + "u,tea\n" + "v,tea,soon\n" + '"w"x,tea,2\n')
    settings = IngestSettings(core=0, split="leave-one-out", on_error="skip")
    result = ingest(folder / "x.csv", folder / "out", items=folder / "items.csv", settings=settings)
    assert result.skipped_records == 4
    assert "4 records could not be taken and were skipped" in result.warnings
    lines = (folder / "out.rejects.jsonl").read_text().splitlines()
    assert {json.loads(line)["problem"] for line in lines} == {
        "2 fields, expected 3 as in the header",
        "a quote is not closed, or text follows the closing one",
        "item 'nut' is not in the items",
        "timestamp 'soon' is neither a number nor an ISO 8601 date",
    }
    assert [json.loads(line)["where"] for line in lines[:2]] == [f"{folder / 'x.csv'}:{n}" for n in (19, 21)]
    assert json.loads(lines[0])["found"] == "u,tea"
    # the lines that could not be read are in no count of records: no line is claimed
    assert [json.loads(line)["where"] for line in lines[2:]] == [
        f"{folder / 'x.csv'}, record {n} of those that can be read" for n in (1, 18)
    ]
    assert len(result.dataset.test) == 4
    again = IngestSettings(core=0, split="leave-one-out")
    with pytest.raises(DataError, match="2 fields"):
        ingest(folder / "x.csv", folder / "other", items=folder / "items.csv", settings=again)
    assert not (folder / "other").exists()
