"""One domain's training: its contrastive part against a scalar formula, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from padded_sasrec import numerical_gradient

from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.model.packing import pack_lists
from llmcdsr_tools.evaluation.official import evaluate
from llmcdsr_tools.optimization.batches import TrainingBatch
from llmcdsr_tools.pretrain.domain_data import DomainData
from llmcdsr_tools.pretrain.domain_training import DomainTraining, title_ranks
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings

SETTINGS = PretrainSettings(
    n_epochs=6,
    batch_size=32,
    learning_rate=0.01,
    hidden=16,
    n_heads=2,
    max_length=10,
    dropout=0.1,
    loss="sampled-softmax",
    n_negatives=16,
)


@pytest.fixture(scope="module")
def text() -> npt.NDArray[np.float32]:
    """Titles of the small world: neighbours in its circles are near to each other."""
    rng = np.random.default_rng(6)
    matrix = rng.normal(size=(66, 12)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def training_of(small_world: Any, text: Any, index: int = 0, **changes: Any) -> DomainTraining:
    settings = replace(SETTINGS, **changes)
    domain = small_world.data.catalogue.domains[index]
    data = DomainData.from_dataset(small_world.data, domain, text, settings.max_length)
    return DomainTraining(data, settings, index)


def batch_of(*histories: list[int]) -> TrainingBatch:
    packed = pack_lists([h[:-1] for h in histories], 10)
    targets = [h[1:] for h in histories]
    return TrainingBatch(packed, np.concatenate([np.array(targets[i]) for i in packed.order]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("learning_rate", [1e30, 1e39])
def test_a_last_step_that_makes_the_model_not_finite_ends_it(
    small_world: Any, text: Any, learning_rate: float
) -> None:
    """One step an epoch: its loss is of the model before it, and finite."""
    training = training_of(small_world, text, batch_size=100_000, learning_rate=learning_rate)
    with pytest.raises(TrainingError, match="domain 'food', epoch 1: the model is not finite after its last"):
        training.run_epoch()
    assert training.best_epoch == 0


def scalar_nt_xent(text: Any, vectors: Any, temperature: float) -> float:
    views = [*text, *vectors]
    n, total = len(text), 0.0
    for i, anchor in enumerate(views):
        others = sum(math.exp(anchor @ v / temperature) for j, v in enumerate(views) if j != i)
        total += math.log(others) - anchor @ views[(i + n) % (2 * n)] / temperature
    return total / (2 * n)


def test_contrast_is_of_the_distinct_titled_items(small_world: Any, text: Any) -> None:
    text = text.copy()
    text[7 - 1] = 0  # item 7 has no title
    training = training_of(small_world, text, temperature=0.7, contrastive_weight=0.3)
    loss, rows, d_rows, d_projection = training.contrast(batch_of([1, 9, 7, 3], [9, 1, 9], [4, 3]))
    assert rows.tolist() == [1, 3, 4, 9]
    projection = training.projection.astype(np.float64)
    vectors = training.parameters.item_embedding[rows].astype(np.float64)

    def objective() -> float:
        return scalar_nt_xent(text[rows - 1].astype(np.float64) @ projection.T, vectors, 0.7)

    assert loss == pytest.approx(objective(), rel=1e-5)
    np.testing.assert_allclose(d_rows, 0.3 * numerical_gradient(objective, vectors), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        d_projection, 0.3 * numerical_gradient(objective, projection), rtol=1e-3, atol=1e-6
    )
    assert d_rows.dtype == d_projection.dtype == np.float32


def test_contrast_needs_two_items(small_world: Any, text: Any) -> None:
    training = training_of(small_world, text * (np.arange(66) == 4)[:, None])
    loss, rows, d_rows, d_projection = training.contrast(batch_of([5, 1, 2]))
    assert (loss, len(rows), d_rows.shape) == (0, 0, (0, 16))
    assert d_projection.shape == (16, 12)
    assert not d_projection.any()
    metrics = training.run_epoch()  # and a step goes through with it
    assert metrics.contrastive == 0


def test_a_step_moves_along_both_losses(small_world: Any, text: Any) -> None:
    """Adam's first step is the learning rate along the sign of the gradient."""
    batch = batch_of([1, 9, 3, 4], [5, 6])
    steps = {}
    for weight in (0.0, 1000.0):
        training = training_of(small_world, text, contrastive_weight=weight, dropout=0.0)
        _, rows, d_rows, d_projection = training.contrast(batch)
        before = training.parameters.item_embedding.copy(), training.projection.copy()
        training.step(batch, np.random.default_rng(1))
        moved = training.parameters.item_embedding - before[0]
        steps[weight] = moved[rows]
        if weight == 0:
            assert (training.projection == before[1]).all()
        else:
            clear = abs(d_projection) > 1e-4
            sign = -np.sign(d_projection[clear])
            np.testing.assert_allclose((training.projection - before[1])[clear] / 0.01, sign, atol=0.01)
            clear = abs(d_rows) > 0.1 * abs(d_rows).max()
            assert (np.sign(moved[rows][clear]) == -np.sign(d_rows[clear])).mean() > 0.95
    assert (np.sign(steps[0.0]) != np.sign(steps[1000.0])).mean() > 0.2


@pytest.mark.parametrize("loss", ["bce", "sampled-softmax"])
@pytest.mark.parametrize("index", [0, 1])
def test_it_learns(small_world: Any, text: Any, index: int, loss: Any) -> None:
    training = training_of(small_world, text, index, loss=loss, contrastive_weight=1.0)
    hr_before, (rank_before, _) = training.validate()[0], training.align()
    epochs = [training.run_epoch() for _ in range(6)]
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].contrastive < epochs[0].contrastive
    assert epochs[-1].hr10 > hr_before + 0.15
    assert rank_before > 9
    assert epochs[-1].title_rank < 4
    assert epochs[-1].title_recall10 > 0.8
    values = [e.hr10 for e in epochs]
    assert training.best_epoch == values.index(max(values)) + 1


def test_validation_is_that_of_evaluate(small_world: Any, text: Any) -> None:
    """Histories of one domain only: evaluation on the whole data set must come to the same."""
    from llmcdsr_tools.data.dataset import Histories

    training = training_of(small_world, text)
    training.run_epoch()
    valid = small_world.data.valid
    inside = [h[h <= 30].tolist() for h in valid if h[-1] <= 30 and (h[:-1] <= 30).any()]
    alone = replace(
        small_world.data, valid=Histories.from_lists(inside, [str(n) for n in range(len(inside))])
    )

    class OneDomain:
        name = "one domain"

        def represent(self, histories: Any) -> Any:
            from llmcdsr_lite.model.backends import NumpyBackend

            return NumpyBackend(training.parameters).represent(histories)

    table = np.zeros((67, 16), dtype=np.float32)
    table[:31] = training.parameters.item_embedding
    results = evaluate(OneDomain(), table, alone, split="valid", groups=("all",))
    assert training.validate() == (results[0].hr10, results[0].ndcg10)
    assert results[0].n_users == len(inside) > 10


def test_held_out_items_are_ranked_and_not_contrasted(small_world: Any, text: Any) -> None:
    training = training_of(small_world, text, held_out=0.2)
    assert len(training.aligned) == 6
    assert not training.contrasted[training.aligned].any()
    assert training.contrasted.sum() == 24
    assert not training.contrasted[0]
    everything = batch_of(list(range(1, 10)), list(range(10, 20)), list(range(20, 31)))
    assert training.contrast(everything)[1].tolist() == np.flatnonzero(training.contrasted).tolist()


def test_title_ranks_against_a_loop() -> None:
    rng = np.random.default_rng(2)
    items = rng.normal(size=(20, 3)).astype(np.float32)
    items[5] = items[11] * 4  # a tie by cosine, and it counts
    items[7] = 0
    projected = items[[11, 3, 7, 0]] + np.array([[0], [0.3], [0.2], [0]], dtype=np.float32)
    ranks = title_ranks(projected, items, np.array([11, 3, 7, 0]))
    for found, title, own in zip(ranks, projected.astype(np.float64), (11, 3, 7, 0), strict=True):
        cosines = []
        for item in items.astype(np.float64):
            size = np.linalg.norm(item) * np.linalg.norm(title)
            cosines.append(item @ title / size if size else 0.0)
        assert found == sum(c >= cosines[own] - 1e-7 for c in cosines)
    assert ranks[3] == 1
    assert ranks[0] == 2


def test_items_may_start_from_their_titles(small_world: Any, text: Any) -> None:
    training = training_of(small_world, text, text_initialization=True)
    start = training.parameters.item_embedding[1:31, :12].astype(np.float64)
    assert np.sqrt((start**2).mean()) == pytest.approx(0.05, rel=1e-5)
    centred = text[:30] - text[:30].mean(axis=0)
    gram, expected = start @ start.T, centred @ centred.T  # all components are kept: the same geometry
    np.testing.assert_allclose(gram / gram.max(), expected / expected.max(), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of bce, sampled-softmax, found 'hinge'"),
        ({"contrastive_weight": -0.1}, "contrastive_weight must be at least 0"),
        ({"contrastive_weight": math.nan}, "contrastive_weight must be at least 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0"),
        ({"held_out": 1.0}, "held_out must be at least 0 and below 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"n_heads": 3}, "n_heads must divide hidden"),
    ],
)
def test_settings_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        replace(SETTINGS, **changes)


def test_a_loss_that_is_not_finite_stops(small_world: Any, text: Any) -> None:
    training = training_of(small_world, text)
    training.projection[0, 0] = np.nan
    with pytest.raises(TrainingError, match=r"domain 'food', epoch 1, step 1: the loss is .*contrastive"):
        training.run_epoch()
