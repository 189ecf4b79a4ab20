from __future__ import annotations

import pytest

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.errors import DataError, UnknownItemError, UsageError


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.from_sizes(
        ["a", "b", "c", "d", "e"],
        ["Dark Coffee", "dark tea", "", "COFFEE pot", "Straße dark-coffee"],
        ("food", "kitchen"),
        (2, 3),
    )


def test_rows_count_from_one_with_domain_a_first(catalogue: Catalogue) -> None:
    assert catalogue.domains == (Domain("food", 1, 3), Domain("kitchen", 3, 6))
    assert [catalogue.row(i) for i in "abcde"] == [1, 2, 3, 4, 5]
    assert [catalogue.domain_of_row(row).name for row in range(1, 6)] == ["food"] * 2 + ["kitchen"] * 3
    assert [d.n_items for d in catalogue.domains] == [2, 3]
    assert len(catalogue) == 5
    assert catalogue.domain("kitchen") == Domain("kitchen", 3, 6)


def test_it_is_a_collection_of_ids(catalogue: Catalogue) -> None:
    assert list(catalogue) == list("abcde")
    assert "c" in catalogue
    assert "Dark Coffee" not in catalogue
    assert 1 not in catalogue


def test_rows_keep_order_and_repeats_and_list_the_unknown(catalogue: Catalogue) -> None:
    rows, unknown = catalogue.rows(iter(["e", "x", "a", "e", "x"]))
    assert rows.tolist() == [5, 1, 5]
    assert rows.dtype == "int64"
    assert unknown == ["x", "x"]
    assert catalogue.rows([])[0].dtype == "int64"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("coffee", [1, 4, 5]),
        ("COFFEE dark", [1, 5]),
        ("strasse", [5]),
        ("dark", [1, 2, 5]),
        ("cocoa", []),
        ("", []),
        ("  ", []),
        ("offe", []),  # within a word
        ("off", []),
        ("cof", [1, 4, 5]),  # the beginning of one, as no title has it whole
        ("dark cof", [1, 5]),
        ("cof dark", []),  # no more than the last word is unfinished
        ("te", [2]),
        ("dark,coffee!", [1, 5]),
        ("&", []),
    ],
)
def test_titles_are_found_by_all_their_words(catalogue: Catalogue, text: str, rows: list[int]) -> None:
    assert catalogue.find_titles(text).tolist() == rows


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("ham", ["Ham", "Smoked ham, sliced"]),
        ("tea", ["Tea-light"]),
        ("chamber", ["Two Chambers"]),
        ("WAND", ["Steam Wand"]),
        ("ste", ["Steam Wand"]),
        ("12", ["Pan 12 inch"]),
        ("1", ["Pan 12 inch"]),
        ("smoked", ["Smoked ham, sliced"]),
    ],
)
def test_words_are_whole_where_any_title_has_them_so(text: str, titles: list[str]) -> None:
    every = ["Ham", "Two Chambers", "Smoked ham, sliced", "Steam Wand", "Hamper", "Tea-light", "Pan 12 inch"]
    catalogue = Catalogue.from_sizes([*"abcdefg"], every, ("food", "kitchen"), (3, 4))
    assert [every[row - 1] for row in catalogue.find_titles(text)] == titles


@pytest.mark.parametrize("item", ["x", "", 1, None, ["a"]])
def test_unknown_item(catalogue: Catalogue, item: object) -> None:
    with pytest.raises(UnknownItemError, match="is not in the catalogue of 5 items") as caught:
        catalogue.row(item)  # type: ignore[arg-type]
    assert str(caught.value) == f"item {item!r} is not in the catalogue of 5 items"
    assert isinstance(caught.value, KeyError)


def test_unknown_domain_names_those_there_are(catalogue: Catalogue) -> None:
    with pytest.raises(
        UsageError, match="no domain is named 'Food', expected 'food' or 'kitchen'; did you mean 'food'"
    ):
        catalogue.domain("Food")


@pytest.mark.parametrize(
    ("ids", "titles", "names", "sizes", "reason"),
    [
        ("abc", "ab", ("A", "B"), (1, 2), "3 item ids but 2 titles"),
        ("abc", "abc", ("A", "B"), (1, 1), "domains cover rows 1..1 and 2..2, expected 1..3 without a gap"),
        ("abc", "abc", ("A", "B"), (3, 0), "has no item, expected one at least"),
        ("abc", "abc", ("A", "B"), (0, 3), "has no item, expected one at least"),
        ("abc", "abc", ("A", "A"), (1, 2), "two domains are named 'A'"),
    ],
)
def test_what_does_not_add_up_is_refused(
    ids: str, titles: str, names: tuple[str, str], sizes: tuple[int, int], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        Catalogue.from_sizes(list(ids), list(titles), names, sizes)


def test_a_gap_between_the_domains_is_refused() -> None:
    with pytest.raises(DataError, match="without a gap"):
        Catalogue(["a", "b", "c"], [""] * 3, (Domain("A", 1, 2), Domain("B", 3, 4)))


def test_an_id_that_occurs_twice_is_named() -> None:
    catalogue = Catalogue.from_sizes(["a", "b", "b", "a"], [""] * 4, ("A", "B"), (2, 2))
    with pytest.raises(DataError, match="item id 'b' occurs more than once"):
        catalogue.rows(["a"])
