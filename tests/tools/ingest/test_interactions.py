from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_tools.ingest.interactions import PROGRESS_EVERY, ItemTable, read_interactions, read_items
from llmcdsr_tools.ingest.settings import Columns

DOMAINS = ("Food", "Kitchen")
ITEMS = "item,domain,title\npan,Kitchen,Pan\ntea,Food,Tea\npot,Kitchen,\njam,Food,  \n"


def items_of(folder: Path, content: str = ITEMS) -> ItemTable:
    path = folder / "items.csv"
    path.write_text(content, encoding="utf-8")
    return read_items(path, Columns(), DOMAINS)


def test_items_of_the_first_domain_come_first_in_file_order(tmp_path: Path) -> None:
    items = items_of(tmp_path)
    assert items.ids == ["tea", "jam", "pan", "pot"]
    assert items.titles == ["Tea", "", "Pan", ""]
    assert (items.domains, items.stops) == (DOMAINS, (2, 4))
    assert items.code_of == {"tea": 0, "jam": 1, "pan": 2, "pot": 3}


def test_all_domains_of_the_file_are_taken_in_order_of_appearance(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text(ITEMS + "hoe,Garden,Hoe\n")
    items = read_items(path, Columns())
    assert items.domains == ("Kitchen", "Food", "Garden")
    assert (items.ids, items.stops) == (["pan", "pot", "tea", "jam", "hoe"], (2, 4, 5))
    assert [items.domain_of(code) for code in range(5)] == ["Kitchen"] * 2 + ["Food"] * 2 + ["Garden"]
    path.write_text("item,domain,title\na,Books,A\n")
    assert read_items(path, Columns()).domains == ("Books",)
    for content, message in (
        ("a, ,A\n", "items.csv:2: the domain is empty"),
        ("".join(f"i{n},d{n},x\n" for n in range(65)), "items.csv:66: 'd64' is one domain more than 64"),
        ("", "items.csv: no items after the header"),
    ):
        path.write_text(f"item,domain,title\n{content}")
        with pytest.raises(DataError, match=message):
            read_items(path, Columns())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("pan,Kitchen,Pan\ntea,Garden,Tea\n", "items.csv:3: domain 'Garden', expected 'Food' or 'Kitchen'"),
        ("pan,Kitchen,Pan\ntea,,Tea\n", "items.csv:3: domain '', expected"),
        ("pan,Kitchen,Pan\n ,Food,Tea\n", "items.csv:3: the item id is empty"),
        (
            "pan,Kitchen,Pan\ntea,Food,Tea\npan,Kitchen,X\n",
            "items.csv:4: item 'pan' is listed twice; it was first on line 2",
        ),
        (
            "pan,Kitchen,Pan\ntea,Food,Tea\npan,Food,X\n",
            "items.csv:4: item 'pan' is in two domains; it was first on line 2",
        ),
        ("pan,Kitchen,Pan\n", "items.csv: no item of domain 'Food'"),
        ("", "items.csv: no item of domain 'Food'"),
    ],
)
def test_bad_items_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        items_of(tmp_path, f"item,domain,title\n{content}")
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_interactions_become_codes_in_file_order(tmp_path: Path, suffix: str) -> None:
    rows = [("u2", "pan", "20"), ("u1", "tea", "2020"), ("u2", "jam", "-3.5"), ("u3", "pan", "1e3")]
    path = tmp_path / f"x{suffix}"
    if suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({"timestamp": t, "user": u, "item": i}) + "\n" for u, i, t in rows)
        )
    else:
        comma = "," if suffix == ".csv" else "\t"
        path.write_text("".join(comma.join(row) + "\n" for row in [("user", "item", "timestamp"), *rows]))
    table = read_interactions(path, items_of(tmp_path), Columns())
    assert table.user_ids == ["u2", "u1", "u3"]
    assert table.users.tolist() == [0, 1, 0, 2]
    assert table.items.tolist() == [2, 0, 1, 2]
    assert table.times.tolist() == [20.0, 2020.0, -3.5, 1000.0]
    assert (table.users.dtype, table.items.dtype, table.times.dtype) == (np.int32, np.int32, np.float64)


@given(
    st.lists(
        st.tuples(
            st.text("abé\",' ", min_size=1, max_size=3).filter(lambda user: not user.isspace()),
            st.sampled_from(["tea", "jam", "pan", "pot"]),
            st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_no_interaction_is_lost_or_changed(rows: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        items = items_of(Path(name))
        path = Path(name) / "x.jsonl"
        path.write_text(
            "".join(json.dumps({"user": u, "item": i, "timestamp": t}) + "\n" for u, i, t in rows)
        )
        table = read_interactions(path, items, Columns())
    found = [
        (table.user_ids[user], items.ids[item], when)
        for user, item, when in zip(table.users, table.items, table.times, strict=True)
    ]
    assert found == rows


def test_columns_may_be_named_otherwise(tmp_path: Path) -> None:
    columns = Columns(user="uid", item="asin", domain="category", timestamp="time", title="name")
    items, path = tmp_path / "items.tsv", tmp_path / "x.tsv"
    items.write_text('name\tasin\tcategory\n12" pan\tpan\tKitchen\nTea\ttea\tFood\n')
    path.write_text("time\tuid\tasin\tcategory\trating\n7\tu\tpan\tKitchen\t5\n")
    table = read_items(items, columns, DOMAINS)
    assert table.titles == ["Tea", '12" pan']
    assert read_interactions(path, table, columns).items.tolist() == [1]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="one name stands for two columns"):
        Columns(user="id", item="id")
    with pytest.raises(UsageError, match="one name stands for two columns"):
        Columns(title="domain")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("u,nut,1,Food", "item 'nut' is not in the items file"),
        ("u,,1,Food", "the item id is empty"),
        ("u, ,1,Food", "the item id is empty"),
        (",tea,1,Food", "the user id is empty"),
        ("  ,tea,1,Food", "the user id is empty"),
        ("u,tea,yesterday,Food", "timestamp 'yesterday' is neither a number nor an ISO 8601 date"),
        ("u,tea,,Food", "timestamp '' is neither"),
        ("u,tea,2024-01-03,Food", "timestamp '2024-01-03' is a date, but that of line 2 is a number"),
        ("u,tea,nan,Food", "timestamp 'nan' is not finite"),
        ("u,tea,-inf,Food", "timestamp '-inf' is not finite"),
        ("u,tea,1e999,Food", "timestamp '1e999' is not finite"),
        ("u,tea,1,Kitchen", "item 'tea' with domain 'Kitchen', but the items file has it in 'Food'"),
        ("u,tea,1,Garden", "domain 'Garden', expected 'Food' or 'Kitchen'"),
        ("u,tea,1,", "domain '', expected 'Food' or 'Kitchen'"),
        ("user,item,timestamp,domain", "the header line again"),
    ],
)
def test_bad_interactions_are_refused_with_their_line(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"user,item,timestamp,domain\nu,tea,1,Food\nu,pan,2,Kitchen\n{row}\nu,jam,3,Food\n")
    with pytest.raises(DataError) as caught:
        read_interactions(path, items_of(tmp_path), Columns())
    assert str(caught.value).startswith(f"{path}:4: {message}")


def test_an_error_does_not_show_a_whole_page(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"user,item,timestamp\nu,{'nut' * 40_000},1\n")
    with pytest.raises(DataError, match="is not in the items file") as caught:
        read_interactions(path, items_of(tmp_path), Columns())
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_json_line_without_domain_is_taken_beside_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"user": 1, "item": "tea", "timestamp": 1}\n'
        '{"user": "1", "item": "jam", "timestamp": 2, "domain": "Food"}\n'
        '{"user": 1, "item": "pan", "timestamp": 3, "domain": "Food"}\n'
    )
    with pytest.raises(DataError, match=r"x\.jsonl:3: item 'pan' with domain 'Food'"):
        read_interactions(path, items_of(tmp_path), Columns())


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("user,item,timestamp\n")
    with pytest.raises(DataError, match=r"x\.csv: no interactions"):
        read_interactions(path, items_of(tmp_path), Columns())


def test_progress_counts_interactions(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("user,item,timestamp\n" + "u,tea,1\n" * (PROGRESS_EVERY + 5))
    counts: list[int] = []
    read_interactions(path, items_of(tmp_path), Columns(), counts.append)
    assert counts == [PROGRESS_EVERY, PROGRESS_EVERY + 5]
