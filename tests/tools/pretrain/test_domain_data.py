"""Cutting a data set to one domain, against loops over lists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import TrainingError
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.pretrain.domain_data import DomainData, domain_histories

CATALOGUE = Catalogue.from_sizes("abcdefg", [""] * 7, ("A", "B"), (3, 4))  # A: rows 1..3, B: 4..7
TEXT = np.arange(14, dtype=np.float32).reshape(7, 2)


def data_of(train: list[list[int]], valid: list[list[int]]) -> Dataset:
    def histories(lists: list[list[int]]) -> Histories:
        return Histories.from_lists(lists, [f"u{n}" for n in range(len(lists))])

    return Dataset(CATALOGUE, histories(train), histories(valid), histories([]))


def test_every_history_is_cut_to_the_domain() -> None:
    lists = [[1, 4, 2, 7], [], [5, 6], [3], [7, 3, 3, 4]]
    histories = Histories.from_lists(lists, "pqrst")
    for domain in CATALOGUE.domains:
        expected = [[r - domain.start + 1 for r in h if domain.start <= r < domain.stop] for h in lists]
        found = domain_histories(histories, domain)
        assert [h.tolist() for h in found] == expected
        assert list(found.users) == list("pqrst")
        assert found.rows.dtype == np.int32


def test_no_histories_at_all() -> None:
    assert len(domain_histories(Histories.from_lists([], []), CATALOGUE.domains[1])) == 0


def test_what_a_domain_is_trained_and_validated_on() -> None:
    train = [[1, 4, 2, 3], [4, 5], [1, 4], [6, 1, 7, 5]]
    valid = [[1, 2, 4, 3], [5, 1, 4], [1, 4], [4, 5, 6], [2, 3]]
    data = data_of(train, valid)
    a, b = (DomainData.from_dataset(data, d, TEXT, 50) for d in CATALOGUE.domains)
    # A: the first user's 1 2 3; the third user's 1 alone is no sequence
    assert [a.sequences.rows[s : s + n + 1].tolist() for s, n in sequences(a)] == [[1, 2, 3]]
    assert [b.sequences.rows[s : s + n + 1].tolist() for s, n in sequences(b)] == [[1, 2], [3, 4, 2]]
    # the target is the last item of the whole history, as in evaluation; users with nothing before it are out
    assert [h.tolist() for h in a.valid.histories] == [[1, 2], [2]]
    assert a.valid.targets.tolist() == [3, 3]
    assert [h.tolist() for h in b.valid.histories] == [[2], [1, 2]]
    assert b.valid.targets.tolist() == [1, 3]
    assert (a.domain.start, a.domain.stop, b.domain.start, b.domain.stop) == (1, 4, 1, 5)
    assert a.text.tolist() == TEXT[:3].tolist()
    assert b.text.tolist() == TEXT[3:].tolist()


def sequences(data: DomainData) -> Any:
    return zip(data.sequences.starts.tolist(), data.sequences.lengths.tolist(), strict=True)


def test_long_sequences_keep_their_newest_items() -> None:
    data = data_of([[1, 2, 4, 3, 1, 2]], [[1, 2], [4, 5]])
    a = DomainData.from_dataset(data, CATALOGUE.domains[0], TEXT, 2)
    ((start, length),) = sequences(a)
    assert a.sequences.rows[start : start + length + 1].tolist() == [3, 1, 2]


def test_a_domain_without_sequences_is_refused() -> None:
    data = data_of([[1, 4, 5], [2, 6]], [[1, 2], [4, 5]])
    DomainData.from_dataset(data, CATALOGUE.domains[1], TEXT, 50)
    with pytest.raises(TrainingError, match="'A' has no training history"):
        DomainData.from_dataset(data, CATALOGUE.domains[0], TEXT, 50)


@pytest.mark.parametrize("valid", [[], [[4, 1], [1, 2]], [[5, 1], [1, 4]]])
def test_a_domain_without_validation_users_is_refused(valid: list[list[int]]) -> None:
    data = data_of([[1, 2, 4, 5]], [])
    data = replace(data, valid=data_of([], valid).valid)
    with pytest.raises(TrainingError, match="no validation user has a target in domain 'B'"):
        DomainData.from_dataset(data, CATALOGUE.domains[1], TEXT, 50)
