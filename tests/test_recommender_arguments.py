"""What callers may ask of a recommender, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite import Recommender, UnknownItemError, UsageError
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Catalogue

ALL = [*(f"f{n}" for n in range(12)), *(f"k{n}" for n in range(18))]


@pytest.fixture(scope="module")
def one(bundle_folder: Path) -> Recommender:
    return Recommender.load(bundle_folder, backend="numpy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"history": ["f1", "x"]}, "history: item 'x' is not in the catalogue"),
        ({"history": ["f1"], "allow": ["x"]}, "allow: item 'x' is not in the catalogue"),
        ({"history": ["f1"], "exclude": ["f1", "x"]}, "exclude: item 'x' is not in the catalogue"),
    ],
)
def test_unknown_items_as_an_error(one: Recommender, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownItemError) as caught:
        one.recommend(**arguments, unknown="error")
    assert str(caught.value) == message


def test_the_history_of_a_batch_with_an_unknown_item_is_numbered(one: Recommender) -> None:
    with pytest.raises(UnknownItemError, match=r"^history 1: item 'x' is not in the catalogue$"):
        one.recommend_batch([["f1"], ["x"]], unknown="error")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.recommend("f1"), UsageError, "history is one string"),
        (lambda r: r.recommend(b"f1"), UsageError, "history is one string"),
        (lambda r: r.recommend_batch("f1"), UsageError, "histories is one string"),
        (lambda r: r.recommend_batch([["f1"], "f1"]), UsageError, "history 1 is one string"),
        (lambda r: r.recommend(["f1"], allow="f1"), UsageError, "allow is one string"),
        (lambda r: r.recommend(["f1"], exclude="f1"), UsageError, "exclude is one string"),
        (lambda r: r.recommend(["f1"], k=0), UsageError, "k must be at least 1, found 0"),
        (lambda r: r.recommend_batch([["f1"]], k=-3), UsageError, "k must be at least 1, found -3"),
        (lambda r: r.similar("f1", k=0), UsageError, "k must be at least 1"),
        (lambda r: r.recommend(["f1"], unknown="ignore"), UsageError, "unknown is 'ignore', expected one of"),
        (lambda r: r.recommend(["f1"], domain="books"), UsageError, "no domain is named 'books'"),
        (lambda r: r.similar("f1", domain="books"), UsageError, "no domain is named 'books'"),
        (lambda r: r.similar("x"), UnknownItemError, "item 'x' is not in the catalogue"),
        (lambda r: r.recommend({"f1", "k2"}), UsageError, "history is a set, which has no order"),
        (lambda r: r.recommend_batch([["f1"], {"f1"}]), UsageError, "history 1 is a set, which has no order"),
        (lambda r: r.recommend(None), UsageError, "history is None, expected a sequence of item ids"),
        (lambda r: r.recommend(np.array("f1")), UsageError, "history is array.*, expected a sequence"),
        (lambda r: r.recommend([["f1"]]), UsageError, "history holds .'f1'., expected item ids"),
        (lambda r: r.recommend(["f1", 1.0]), UsageError, "history holds 1.0, expected item ids, strings or"),
        (lambda r: r.recommend(["f1", True]), UsageError, "history holds True, expected item ids"),
        (lambda r: r.recommend(np.array([1.5])), UsageError, "history holds .*1.5.*, expected item ids"),
        (lambda r: r.similar(2.5), UsageError, "item is 2.5, expected a sequence of item ids"),
        (lambda r: r.recommend([None]), UsageError, "history holds None"),
        (lambda r: r.recommend([float("nan")], unknown="error"), UsageError, "history holds nan"),
        (lambda r: r.recommend([b"f1"]), UsageError, "history holds b'f1'"),
        (lambda r: r.recommend(["f1"], allow=5), UsageError, "allow is 5, expected a sequence of item ids"),
        (lambda r: r.recommend(["f1"], allow=[["f2"]]), UsageError, "allow holds"),
        (lambda r: r.recommend(["f1"], exclude=[2.5]), UsageError, "exclude holds 2"),
        (lambda r: r.recommend(["f1"], pseudo=None), UsageError, "pseudo is None, expected a sequence of"),
        (lambda r: r.recommend_batch(None), UsageError, "histories is None, expected a sequence of hist"),
        (lambda r: r.recommend_batch([["f1"], None]), UsageError, "history 1 is None, expected"),
        (lambda r: r.recommend_batch([["f1"], [2.5]]), UsageError, "history 1 holds 2"),
        (lambda r: r.recommend_batch([["f1"]], pseudo=None), UsageError, "pseudo is None, expected"),
        (lambda r: r.recommend_batch([["f1"]], pseudo=[None]), UsageError, "pseudo of history 0 is None"),
    ],
)
def test_arguments_that_cannot_be_meant(
    one: Recommender, call: Callable[[Recommender], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(one)


@pytest.mark.parametrize("k", [3.0, 2.5, float("nan"), float("inf"), "3", None, True, [3], np.float64(3)])
@pytest.mark.parametrize(
    "call",
    [
        lambda r, k: r.recommend(["f1"], k=k),
        lambda r, k: r.recommend_batch([["f1"]], k=k),
        lambda r, k: r.similar("f1", k=k),
    ],
)
def test_a_k_that_is_no_whole_number(one: Recommender, call: Callable[..., Any], k: Any) -> None:
    with pytest.raises(UsageError, match=r"^k is .*, expected a whole number$"):
        call(one, k)


def test_whole_numbers_of_numpy_will_do(one: Recommender) -> None:
    assert len(one.recommend(["f1"], k=np.int32(3))) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        *({"backend": "torch"}, {"search": "fast"}, {"threads": 0}, {"threads": -1}, {"threads": 20_000}),
        *({"threads": 1.5}, {"threads": "1"}, {"threads": True}, {"threads": None}),
        {"threads": 1.5, "backend": "numpy"},
    ],
)
def test_load_refuses_what_it_does_not_know(bundle_folder: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        Recommender.load(bundle_folder, **arguments)


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array, dict.fromkeys])
def test_any_sequence_of_ids_will_do(one: Recommender, kind: Callable[[list[str]], Any]) -> None:
    expected = one.recommend(["f1", "k2"], allow=ALL[5:], exclude=["k4", "k5"], k=20)
    answer = one.recommend(kind(["f1", "k2"]), allow=kind(ALL[5:]), exclude=kind(["k4", "k5"]), k=20)
    assert answer == expected
    batch = one.recommend_batch((kind(h) for h in [["f1", "k2"], ["f1"]]), k=20)  # type: ignore[arg-type]
    assert batch.ids[0, 0] == one.recommend(["f1", "k2"], k=1)[0].id


def test_whole_numbers_are_ids(
    bundle_data: Bundle, build_bundle: Callable[[Bundle, Path], Path], tmp_path: Path
) -> None:
    old = bundle_data.catalogue
    sizes = old.domains[0].n_items, old.domains[1].n_items
    numbers = [str(n) for n in range(len(old))]
    catalogue = Catalogue.from_sizes(numbers, old.titles, ("food", "kitchen"), sizes)
    recommender = Recommender.load(
        build_bundle(replace(bundle_data, catalogue=catalogue), tmp_path / "bundle")
    )
    expected = recommender.recommend(["1", "14"], allow=["3", "15", "99"])
    for history in ([1, 14], np.array([1, 14]), ["1", np.int32(14)]):
        assert recommender.recommend(history, allow=[3, 15, 99]) == expected
    assert expected.unknown_filter_items == ("99",)
    assert recommender.recommend([1, 77]).unknown_items == ("77",)
    assert recommender.similar(3) == recommender.similar("3")


def test_a_filter_is_made_once(one: Recommender) -> None:
    """An `ItemFilter` is what its ids are; its unknown ids are told with every answer."""
    in_stock = one.filter(allow=[f"k{n}" for n in range(9)] + ["gone"], exclude=["k3"])
    assert (len(in_stock), in_stock.unknown) == (8, ("gone",))
    assert repr(in_stock) == "<ItemFilter: 8 of 30 items>"
    ids = [f"k{n}" for n in range(9) if n != 3]
    for history in (["f1"], ["k1", "f2"], []):
        for domain in (None, "kitchen", "food"):
            answer = one.recommend(history, domain=domain, allow=in_stock, exclude=["k4"])
            assert answer.items == one.recommend(history, domain=domain, allow=ids, exclude=["k4"]).items
            assert answer.unknown_filter_items == ("gone",)
    assert one.recommend_batch([["f1"]], allow=in_stock, k=3).ids.tolist() == [
        [item.id for item in one.recommend(["f1"], allow=ids, k=3)]
    ]
    assert len(one.filter()) == 30
    with pytest.raises(UnknownItemError, match="allow: item 'gone' is not in the catalogue"):
        one.filter(["gone"], unknown="error")


def test_a_filter_of_another_recommender_is_refused(one: Recommender, bundle_folder: Path) -> None:
    other = Recommender.load(bundle_folder)
    with pytest.raises(UsageError, match="allow is a filter of another recommender"):
        one.recommend(["f1"], allow=other.filter(["k1"]))
