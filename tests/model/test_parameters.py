from __future__ import annotations

import math

import numpy as np
import pytest

from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters, dense_shapes, dense_size

CONFIG = SASRecConfig(n_items=20, hidden=6, n_blocks=3, n_heads=2, max_length=5)


def test_shapes_by_hand() -> None:
    shapes = dict(dense_shapes(CONFIG))
    assert shapes["position_embedding"] == (5, 6)
    assert shapes["blocks.2.key_value_weight"] == (12, 6)
    assert shapes["blocks.2.key_value_bias"] == (12,)
    assert shapes["blocks.0.query_weight"] == (6, 6)
    assert shapes["blocks.0.attention_norm_weight"] == (6,)
    assert shapes["norm_bias"] == (6,)
    # positions; a block: six matrices' worth (q, k, v, out, inner, outer), as many biases, two norms
    assert dense_size(CONFIG) == 5 * 6 + 3 * (6 * 36 + 6 * 6 + 4 * 6) + 2 * 6


def test_arrays_are_views_that_share_out_the_flat_vector() -> None:
    parameters = SASRecParameters.zeros(CONFIG, np.float64)
    parameters.dense[:] = np.arange(dense_size(CONFIG))
    seen = np.concatenate([a.ravel() for a in parameters.arrays.values()])
    assert seen.tolist() == list(range(dense_size(CONFIG)))  # all of it, each number once
    parameters.blocks[1].inner_weight[:] = -1
    assert np.count_nonzero(parameters.dense == -1) == 36
    assert parameters.arrays["blocks.1.inner_weight"].base is not None
    parameters.position_embedding[:] = -2
    parameters.norm_bias[:] = -3
    assert parameters.dense[:30].tolist() == [-2] * 30
    assert parameters.dense[-6:].tolist() == [-3] * 6


def test_arrays_of_another_shape_are_refused() -> None:
    table, dense = np.zeros((21, 6)), np.zeros(dense_size(CONFIG))
    SASRecParameters(CONFIG, table, dense)
    with pytest.raises(ValueError, match=r"item_embedding has shape \(20, 6\), expected \(21, 6\)"):
        SASRecParameters(CONFIG, table[1:], dense)
    with pytest.raises(ValueError, match="dense has shape"):
        SASRecParameters(CONFIG, table, dense[1:])


def test_initial_values() -> None:
    config = SASRecConfig(n_items=999, hidden=64, n_blocks=2, max_length=50)
    parameters = SASRecParameters.initial(config, np.random.default_rng(0))
    assert parameters.item_embedding.dtype == parameters.dense.dtype == np.float32
    assert not parameters.item_embedding[0].any()
    xavier = {  # square root of 2 / (rows + columns), as the official code fills them
        "item": (parameters.item_embedding[1:], 1000 + 64),
        "position": (parameters.position_embedding, 50 + 64),
        "query": (parameters.blocks[1].query_weight, 3 * 64 + 64),
        "key_value": (parameters.blocks[1].key_value_weight, 3 * 64 + 64),
        "output": (parameters.blocks[0].output_weight, 128),
        "inner": (parameters.blocks[0].inner_weight, 128),
        "outer": (parameters.blocks[0].outer_weight, 128),
    }
    for name, (array, fans) in xavier.items():
        assert array.std() == pytest.approx(math.sqrt(2 / fans), rel=0.06), name
        assert abs(array.mean()) < 4 * math.sqrt(2 / fans / array.size), name
    for block in parameters.blocks:
        assert (block.attention_norm_weight == 1).all()
        assert (block.feed_forward_norm_weight == 1).all()
        for zero in (block.query_bias, block.key_value_bias, block.output_bias):
            assert not zero.any()
        assert not block.attention_norm_bias.any()
        assert not block.feed_forward_norm_bias.any()
        for uniform in (block.inner_bias, block.outer_bias):
            assert 0.1 < np.abs(uniform).max() <= 1 / 8
            assert np.unique(uniform).size == 64
    assert (parameters.norm_weight == 1).all()
    assert not parameters.norm_bias.any()


def test_initial_values_come_from_the_rng() -> None:
    def flat(seed: int) -> bytes:
        parameters = SASRecParameters.initial(CONFIG, np.random.default_rng(seed))
        return parameters.dense.tobytes() + parameters.item_embedding.tobytes()

    assert flat(3) == flat(3)
    assert flat(3) != flat(4)


def test_copy_shares_nothing() -> None:
    parameters = SASRecParameters.initial(CONFIG, np.random.default_rng(0))
    copy = parameters.copy()
    assert np.array_equal(copy.dense, parameters.dense)
    assert np.array_equal(copy.item_embedding, parameters.item_embedding)
    assert not np.shares_memory(copy.dense, parameters.dense)
    assert not np.shares_memory(copy.item_embedding, parameters.item_embedding)
    assert np.shares_memory(copy.blocks[0].query_bias, copy.dense)


def test_zeros_like_is_a_place_for_gradients() -> None:
    parameters = SASRecParameters.initial(CONFIG, np.random.default_rng(0), np.float64)
    gradients = parameters.zeros_like()
    assert gradients.dense.dtype == np.float64
    assert not gradients.dense.any()
    assert not gradients.item_embedding.any()
    gradients.dense[:] = 1
    assert not (parameters.dense == 1).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_items": 0}, "must be at least 1"),
        ({"hidden": 0}, "must be at least 1"),
        ({"n_blocks": 0}, "must be at least 1"),
        ({"n_heads": 0}, "must be at least 1"),
        ({"max_length": 0}, "must be at least 1"),
        ({"hidden": 6, "n_heads": 4}, "n_heads must divide hidden, found 4 and 6"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), found 1.0"),
        ({"dropout": -0.1}, "dropout must be in"),
        ({"dropout": math.nan}, "dropout must be in"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SASRecConfig(**{"n_items": 20, **wrong})  # type: ignore[arg-type]
