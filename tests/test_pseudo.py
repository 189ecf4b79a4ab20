"""For whom pseudo items are recalled, what a sequence with them is, and the scores that they add."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.mix.dense import DenseExperts
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.pseudo import PseudoItems, PseudoRecall
from llmcdsr_lite.recall import RecallNetwork

SIMILAR, INSERTED = ExpertWeights(similar=2.0), ExpertWeights(inserted=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warm": SIMILAR}, "warm is model . similar 2, expected weights of next, repeat, recent alone"),
        ({"warm": ExpertWeights(popular=1.0)}, "warm is model"),
        ({"named": ExpertWeights()}, "named is model alone, expected weights of pseudo items alone"),
        ({"named": ExpertWeights(next=1.0, similar=1.0)}, "named is model"),
        ({"named": ExpertWeights(popular=1.0, similar=1.0)}, "named is model"),
        ({"source": "hearsay"}, "source is 'hearsay', expected one of titles, companions, both, names"),
        ({"n_recalled": 0}, "n_recalled is 0"),
        ({"n_recalled": 1001}, "n_recalled is 1001"),
        ({"n_recalled": True}, "n_recalled is True"),
        ({"n_recalled": 2.0}, "n_recalled is 2.0"),
    ],
)
def test_mixes_that_cannot_be_meant(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DomainMix(**values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1, True, "1", None])
@pytest.mark.parametrize("name", ["similar", "inserted"])
def test_weights_that_cannot_be_meant(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} is "):
        ExpertWeights(**{name: value})


def items(weights: ExpertWeights, k: int) -> PseudoItems:
    of: Any = None
    return PseudoItems(of, weights, np.ones(1), np.arange(100, 100 + k), np.ones(k, np.float32))


def test_in_words() -> None:
    assert str(items(SIMILAR, 3)) == "add 2 x cosine to the scores"
    assert str(items(INSERTED, 3)) == "insert 3 items before the history, weight 0.5"
    both = ExpertWeights(similar=2.5, inserted=1.0)
    assert str(items(both, 4)) == "insert 4 items before the history and add 2.5 x cosine to the scores"


@given(st.integers(0, 9), st.integers(0, 12), st.integers(1, 9))
def test_a_sequence_has_the_most_similar_nearest_to_the_history(n: int, k: int, max_length: int) -> None:
    history = np.arange(1, n + 1)
    pseudo = items(INSERTED, k)
    seen = pseudo.sequence(history, max_length)
    whole = [*range(100 + k - 1, 99, -1), *history.tolist()]
    assert seen.tolist() == whole[-max_length:]
    n_seen = pseudo.n_seen(n, max_length)
    assert sorted(seen[seen >= 100].tolist()) == list(range(100, 100 + n_seen))


@pytest.mark.parametrize("rows", [range(1, 31), range(13, 31), range(1, 13), [3, 5, 14, 15, 20], [14], []])
def test_similarities_are_added_to_the_columns_of_the_domain(
    bundle_data: Bundle, recall_network: RecallNetwork, rows: Any
) -> None:
    kitchen = bundle_data.catalogue.domains[1]
    mix = DomainMix(cold=SIMILAR)
    recaller = PseudoRecall(bundle_data.catalogue, recall_network, (mix, mix), 6)
    histories = [np.array(h) for h in ([3, 4], [14, 15], [3, 14], [], [5], [9, 9, 2])]
    pseudo = recaller.recall(histories, [kitchen], ["auto"] * 6)
    assert [len(p) == 1 for p in pseudo] == [True, False, False, False, True, True]
    columns = np.array(rows, dtype=np.int64)
    for first in (0, 2):  # users 0..3, then 2..5
        scores = np.zeros((4, len(columns)), dtype=np.float32)
        similar = [{one.domain: 2.0 * one.direction for one in found} for found in pseudo]
        experts = DenseExperts(np.zeros(31, np.float32), recall_network.items, [{}] * 6, similar)
        experts.add(scores, slice(first, first + 4), columns)
        for i, found in enumerate(pseudo[first : first + 4]):
            for column, row in enumerate(columns.tolist()):
                expected = 0.0
                if found and 13 <= row < 31:
                    expected = 2.0 * float(found[0].direction @ recall_network.items[row])
                assert scores[i, column] == pytest.approx(expected, abs=1e-5)


def test_items_are_recalled_only_where_they_are_needed(
    bundle_data: Bundle, recall_network: RecallNetwork
) -> None:
    kitchen = bundle_data.catalogue.domains[1]
    for weights, n in ((SIMILAR, 0), (INSERTED, 4)):
        mix = DomainMix(cold=weights, n_recalled=4)
        recaller = PseudoRecall(bundle_data.catalogue, recall_network, (mix, mix), 6)
        ((lean,),) = recaller.recall([np.array([3])], [kitchen], ["auto"])
        ((full,),) = recaller.recall([np.array([3])], [kitchen], ["auto"], rows_always=True)
        assert (len(lean.rows), len(full.rows)) == (n, 4)
        assert np.array_equal(lean.direction, full.direction)


def test_where_several_domains_are_asked_for_nothing_is_inserted(
    bundle_data: Bundle, recall_network: RecallNetwork
) -> None:
    for weights in (INSERTED, ExpertWeights(similar=1.0, inserted=1.0)):
        mix = DomainMix(cold=weights)
        recaller = PseudoRecall(bundle_data.catalogue, recall_network, (mix, mix), 6)
        (found,) = recaller.recall([np.array([3])], bundle_data.catalogue.domains, ["auto"])
        expected = [ExpertWeights(similar=1.0)] if weights.similar else []
        assert [items.weights for items in found] == expected
