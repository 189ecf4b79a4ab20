"""Settings, insertion, and the scores that pseudo items add."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.fusion import Fusion
from llmcdsr_lite.pseudo import PseudoChoice, PseudoItems, PseudoRecall, PseudoSetting, insert_items
from llmcdsr_lite.recall import RecallNetwork


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "on"}, "mode is 'on', expected one of 'off', 'insert', 'fuse'"),
        ({"place": "back"}, "place is 'back'"),
        ({"scope": "all"}, "scope is 'all'"),
        ({"k": 0}, "k is 0"),
        ({"k": 1001}, "k is 1001"),
        ({"k": True}, "k is True"),
        ({"k": 2.0}, "k is 2.0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"weight": 1}, "weight is 1,"),
        ({"mode": "fuse"}, "weight is 0"),
    ],
)
def test_settings_that_cannot_be_meant(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PseudoSetting(**values)


def test_given_names_are_never_ignored() -> None:
    with pytest.raises(UsageError, match="names: mode is 'off'"):
        PseudoChoice(names=PseudoSetting())


def test_settings_in_words() -> None:
    assert str(PseudoSetting()) == "off"
    assert str(PseudoSetting("insert", 3)) == "insert 3 items before the history"
    assert str(PseudoSetting("insert", 3, "spread")) == "insert 3 items spread over the history"
    assert str(PseudoSetting("fuse", weight=2.5)) == "add 2.5 x cosine to the scores of all items"
    fused = PseudoSetting("fuse", 4, scope="recalled", weight=2.5)
    assert str(fused) == "add 2.5 x cosine to the scores of the 4 most similar items"


def test_insertion_by_hand() -> None:
    history, pseudo = np.array([1, 2, 3]), np.array([10, 11, 12, 13])  # 10 is the most similar
    assert insert_items(history, pseudo, "front").tolist() == [13, 12, 11, 10, 1, 2, 3]
    assert insert_items(history, pseudo, "spread").tolist() == [13, 12, 1, 11, 2, 10, 3]
    assert insert_items(history, pseudo[:1], "spread").tolist() == [10, 1, 2, 3]
    assert insert_items(history, pseudo[:0], "spread").tolist() == [1, 2, 3]
    assert insert_items(history[:0], pseudo, "spread").tolist() == [13, 12, 11, 10]


@given(st.integers(1, 9), st.integers(0, 12), st.sampled_from(["front", "spread"]), st.integers(1, 9))
def test_insertion_keeps_both_orders_and_ends_with_a_real_item(
    n: int, k: int, place: Any, max_length: int
) -> None:
    history, pseudo = np.arange(1, n + 1), np.arange(100, 100 + k)
    found = insert_items(history, pseudo, place)
    assert found[found < 100].tolist() == history.tolist()
    assert found[found >= 100].tolist() == pseudo[::-1].tolist()
    assert found[-1] == n
    of: Any = None
    items = PseudoItems(of, PseudoSetting("insert", place=place), np.ones(1), pseudo, np.ones(k, np.float32))
    seen = items.sequence(history, max_length)
    newest = history[-max_length:]
    assert len(seen) == min(max_length, len(newest) + k)
    assert seen.tolist() == insert_items(newest, pseudo, place)[-max_length:].tolist()
    n_seen = items.n_seen(n, max_length)
    assert sorted(seen[seen >= 100].tolist()) == pseudo[:n_seen].tolist()


@pytest.mark.parametrize("scope", ["domain", "recalled"])
@pytest.mark.parametrize("rows", [range(1, 31), range(13, 31), range(1, 13), [3, 5, 14, 15, 20], [14], []])
def test_scores_are_added_to_the_columns_of_the_domain(
    bundle_data: Bundle, recall_network: RecallNetwork, scope: Any, rows: Any
) -> None:
    kitchen = bundle_data.catalogue.domains[1]
    setting = PseudoSetting("fuse", 4, scope=scope, weight=2.0)
    choice = PseudoChoice(setting)
    recaller = PseudoRecall(bundle_data.catalogue, recall_network, (choice, choice), 6)
    histories = [np.array(h) for h in ([3, 4], [14, 15], [3, 14], [], [5], [9, 9, 2])]
    pseudo = recaller.recall(histories, kitchen, ["auto"] * 6, rows_always=True)
    assert [p is not None for p in pseudo] == [True, False, False, False, True, True]
    columns = np.array(rows, dtype=np.int64)
    for first in (0, 2):  # users 0..3, then 2..5
        scores = np.zeros((4, len(columns)), dtype=np.float32)
        Fusion(recall_network, pseudo).add(scores, slice(first, first + 4), columns)
        for i, items in enumerate(pseudo[first : first + 4]):
            for column, row in enumerate(columns.tolist()):
                expected = 0.0
                if items is not None and 13 <= row < 31 and (scope == "domain" or row in items.rows):
                    expected = 2.0 * float(items.direction @ recall_network.items[row])
                assert scores[i, column] == pytest.approx(expected, abs=1e-5)


def test_items_are_recalled_only_where_they_are_needed(
    bundle_data: Bundle, recall_network: RecallNetwork
) -> None:
    choice = PseudoChoice(PseudoSetting("fuse", 4, weight=2.0))
    recaller = PseudoRecall(bundle_data.catalogue, recall_network, (choice, choice), 6)
    kitchen = bundle_data.catalogue.domains[1]
    (lean,) = recaller.recall([np.array([3])], kitchen, ["auto"])
    (full,) = recaller.recall([np.array([3])], kitchen, ["auto"], rows_always=True)
    assert lean is not None
    assert full is not None
    assert (len(lean.rows), len(full.rows)) == (0, 4)
    assert np.array_equal(lean.direction, full.direction)
