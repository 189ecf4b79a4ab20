"""The whole model against a padded one written apart, its gradients against central differences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from padded_sasrec import assert_gradient, numerical_gradient, padded_features

from llmcdsr_lite.model import sasrec
from llmcdsr_lite.model.packing import pack_lists
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.optimization import losses

Array = npt.NDArray[np.float64]

MAX_LENGTH = 4
HISTORIES = [[3, 3, 7, 1], [5], [8, 2], [7, 6, 5], [9], [1, 2, 3, 4], [5, 3]]  # rows repeat
SIZES = [(1, 1, 4), (2, 2, 4), (3, 4, 4), (2, 3, 6)]  # blocks, heads, hidden


def random_model(
    n_blocks: int, n_heads: int, hidden: int, *, padding_keys: bool = False, dropout: float = 0.0
) -> SASRecParameters:
    """Every array drawn at random: no zero bias or unit weight hides a mistake."""
    config = SASRecConfig(9, hidden, n_blocks, n_heads, MAX_LENGTH, dropout, padding_keys=padding_keys)
    parameters = SASRecParameters.zeros(config, np.float64)
    rng = np.random.default_rng(11)
    parameters.item_embedding[:] = rng.normal(0, 0.5, parameters.item_embedding.shape)
    parameters.dense[:] = rng.normal(0, 0.5, parameters.dense.shape)
    return parameters


def expected_features(parameters: SASRecParameters, histories: list[list[int]]) -> list[Array]:
    config = parameters.config
    return [
        padded_features(
            parameters.arrays,
            parameters.item_embedding,
            history,
            n_blocks=config.n_blocks,
            n_heads=config.n_heads,
            max_length=config.max_length,
            padding_keys=config.padding_keys,
        )
        for history in histories
    ]


@pytest.mark.parametrize("padding_keys", [False, True])
@pytest.mark.parametrize(("n_blocks", "n_heads", "hidden"), SIZES)
def test_packed_equals_padded(n_blocks: int, n_heads: int, hidden: int, padding_keys: bool) -> None:
    parameters = random_model(n_blocks, n_heads, hidden, padding_keys=padding_keys)
    expected = expected_features(parameters, HISTORIES)
    batch = pack_lists(HISTORIES, MAX_LENGTH)
    features, _ = sasrec.forward(parameters, batch)
    in_packed_order = np.concatenate([expected[i] for i in batch.order])
    np.testing.assert_allclose(features, in_packed_order, rtol=1e-9, atol=1e-12)
    users = sasrec.user_representations(parameters, batch)
    np.testing.assert_allclose(users, [f[-1] for f in expected], rtol=1e-9, atol=1e-12)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=8), st.booleans())
def test_user_representations_come_in_the_callers_order(
    histories: list[list[int]], padding_keys: bool
) -> None:
    parameters = random_model(2, 2, 4, padding_keys=padding_keys)
    batch = pack_lists(histories, MAX_LENGTH)
    users = sasrec.user_representations(parameters, batch)
    for user, history in zip(users, histories, strict=True):
        alone, _ = sasrec.forward(parameters, pack_lists([history[-MAX_LENGTH:]], MAX_LENGTH))
        np.testing.assert_allclose(user, alone[-1], rtol=1e-9, atol=1e-12)


def test_later_items_change_nothing_before_them() -> None:
    parameters = random_model(2, 2, 4)
    before, _ = sasrec.forward(parameters, pack_lists([[1, 2, 3, 4]], MAX_LENGTH))
    after, _ = sasrec.forward(parameters, pack_lists([[1, 2, 3, 9]], MAX_LENGTH))
    assert np.array_equal(before[:3], after[:3])
    assert not np.allclose(before[3], after[3])


def test_an_empty_batch_has_no_representations() -> None:
    users = sasrec.user_representations(random_model(2, 2, 4), pack_lists([], MAX_LENGTH))
    assert users.shape == (0, 4)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("loss_name", "padding_keys"), [("bce", False), ("bce", True), ("softmax", False)])
@pytest.mark.parametrize(
    ("n_blocks", "n_heads", "hidden"),
    [*SIZES[:2], *(pytest.param(*size, marks=pytest.mark.slow) for size in SIZES[2:])],
)
def test_every_gradient_of_the_whole_model(
    n_blocks: int, n_heads: int, hidden: int, loss_name: str, padding_keys: bool, dropout: float
) -> None:
    parameters = random_model(n_blocks, n_heads, hidden, padding_keys=padding_keys, dropout=dropout)
    batch = pack_lists(HISTORIES[:4], MAX_LENGTH)
    rng = np.random.default_rng(2)
    positives, negatives = rng.integers(1, 10, (2, len(batch.rows)))

    def loss() -> tuple[losses.LossGradients, sasrec.ForwardCache]:
        features, cache = sasrec.forward(parameters, batch, np.random.default_rng(6))
        table = parameters.item_embedding
        if loss_name == "bce":
            return losses.binary_cross_entropy(features, table, positives, negatives), cache
        shared = np.array([2, 4, 1]), np.array([8, 5])
        return losses.sampled_softmax(features, table, positives, shared, [1, 5]), cache

    def objective() -> float:
        return loss()[0].loss

    found, cache = loss()
    gradients = parameters.zeros_like()
    gradients.dense[:] = np.nan  # the backward must write all of it
    d_items = sasrec.backward(parameters, found.d_features, cache, gradients)
    summed = sasrec.sum_rows(
        np.concatenate([batch.rows, found.rows]), np.concatenate([d_items, found.d_rows])
    )
    d_table = np.zeros_like(parameters.item_embedding)
    d_table[summed.rows] = summed.values
    assert_gradient(d_table, numerical_gradient(objective, parameters.item_embedding), "item_embedding")
    for name, array in parameters.arrays.items():
        assert_gradient(gradients.arrays[name], numerical_gradient(objective, array), name)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_feed_forward_backward(dropout: float) -> None:
    parameters = random_model(1, 2, 4, dropout=dropout)
    block, config = parameters.blocks[0], parameters.config
    rng = np.random.default_rng(3)
    y, dy = rng.normal(size=(2, 5, 4))

    def forward() -> tuple[Array, sasrec.FeedForwardCache]:
        return sasrec.feed_forward(y, block, config, np.random.default_rng(8))

    gradients = parameters.zeros_like().blocks[0]
    dx = sasrec.feed_forward_backward(dy, block, forward()[1], gradients)
    assert_gradient(dx, numerical_gradient(lambda: float((forward()[0] * dy).sum()), y), "y")
    for name in ("feed_forward_norm_weight", "inner_weight", "inner_bias", "outer_weight", "outer_bias"):
        expected = numerical_gradient(lambda: float((forward()[0] * dy).sum()), getattr(block, name))
        assert_gradient(getattr(gradients, name), expected, name)


@pytest.mark.parametrize("padding_keys", [False, True])
def test_block_backward_gives_the_gradient_of_its_input(padding_keys: bool) -> None:
    parameters = random_model(1, 2, 4, padding_keys=padding_keys, dropout=0.3)
    batch = pack_lists(HISTORIES, MAX_LENGTH)
    rng = np.random.default_rng(3)
    x, dy = rng.normal(size=(2, len(batch.rows), 4))

    def forward() -> tuple[Array, sasrec.BlockCache]:
        return sasrec.block_forward(
            x, parameters.blocks[0], batch.groups, parameters.config, np.random.default_rng(8)
        )

    gradients = parameters.zeros_like().blocks[0]
    dx = sasrec.block_backward(dy.copy(), parameters.blocks[0], forward()[1], gradients)
    assert_gradient(dx, numerical_gradient(lambda: float((forward()[0] * dy).sum()), x), "x")


def test_dropout_is_drawn_from_the_rng_and_only_from_it() -> None:
    parameters = random_model(2, 2, 4, dropout=0.5)
    batch = pack_lists(HISTORIES, MAX_LENGTH)
    plain, _ = sasrec.forward(parameters, batch)
    one, _ = sasrec.forward(parameters, batch, np.random.default_rng(1))
    again, _ = sasrec.forward(parameters, batch, np.random.default_rng(1))
    other, _ = sasrec.forward(parameters, batch, np.random.default_rng(2))
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)
    assert not np.allclose(one, plain)


def test_forward_and_backward_change_no_parameter() -> None:
    parameters = random_model(2, 2, 4, dropout=0.5)
    before = parameters.copy()
    batch = pack_lists(HISTORIES, MAX_LENGTH)
    features, cache = sasrec.forward(parameters, batch, np.random.default_rng(1))
    sasrec.backward(parameters, features.copy(), cache, parameters.zeros_like())
    sasrec.user_representations(parameters, batch)
    assert np.array_equal(parameters.dense, before.dense)
    assert np.array_equal(parameters.item_embedding, before.item_embedding)


def test_float32_stays_float32() -> None:
    config = SASRecConfig(9, 4, 2, 2, MAX_LENGTH, 0.5)
    parameters = SASRecParameters.initial(config, np.random.default_rng(0))
    batch = pack_lists(HISTORIES, MAX_LENGTH)
    features, cache = sasrec.forward(parameters, batch, np.random.default_rng(1))
    d_items = sasrec.backward(parameters, features, cache, parameters.zeros_like())
    users = sasrec.user_representations(parameters, batch)
    assert features.dtype == d_items.dtype == users.dtype == np.float32


@given(st.lists(st.integers(0, 6), max_size=40))
def test_sum_rows_is_a_dictionary_of_sums(rows: list[int]) -> None:
    values = np.random.default_rng(len(rows)).normal(size=(len(rows), 3))
    expected: dict[int, Array] = {}
    for row, value in zip(rows, values, strict=True):
        expected[row] = expected.get(row, np.zeros(3)) + value
    found = sasrec.sum_rows(np.array(rows, dtype=np.int64), values)
    assert found.rows.tolist() == sorted(expected)
    assert found.values.shape == (len(expected), 3)
    for row, value in zip(found.rows.tolist(), found.values, strict=True):
        np.testing.assert_allclose(value, expected[row], rtol=1e-12, atol=1e-14)
