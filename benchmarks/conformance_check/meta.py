"""The checks of the recall network and of the meta step, for `conformance`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from conformance_check.case import Array, Case, pack_padded, parameters_of
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.model.recall_network import PoolCache, pool, pool_backward, project, unit_rows
from llmcdsr_lite.recall import recall
from llmcdsr_tools.optimization.batches import TrainingBatch
from llmcdsr_tools.optimization.optimizers import Adam, AdamSettings
from llmcdsr_tools.train.augmentation import AugmentedBatch
from llmcdsr_tools.train.bilevel import meta_gradient
from llmcdsr_tools.train.gradients import BatchGradient, combine, differentiate, with_all_rows
from llmcdsr_tools.train.inner_steps import VirtualStep, virtual_step
from llmcdsr_tools.train.objectives import BinaryCrossEntropy
from llmcdsr_tools.train.recipes import InnerOptimizer

Comparisons = Iterator[tuple[str, Array, Array]]


def check_recall(case: Case) -> Comparisons:
    """Pooled vectors of all users with either pooler, and the items recalled for each."""
    k = case.scalar("config.recall_k")
    everyone = np.arange(len(case["recall/source_domain"]))
    recalled = np.empty((len(everyone), k), dtype=np.int64)
    starts = (1, 1 + case.scalar("config.items_a"))
    for domain, letter in enumerate("ab"):
        pooled, _ = _pool(case, everyone, letter)
        yield f"pooled_{letter}", pooled, case[f"recall/pooled_{letter}"]
        users = np.flatnonzero(case["recall/source_domain"] == 1 - domain)
        found, _ = recall(pooled[users], unit_rows(case[f"recall/text_items_{letter}"]), k)
        recalled[users] = found + starts[domain]
    yield "ids", recalled, case["recall/ids"]


def check_meta(case: Case) -> Comparisons:
    """Two consecutive steps with the official inner Adam, each from an empty state.

    The slope of such a step is ``lr / eps`` where there is no gradient and falls with its square where
    there is: the meta-gradient hangs on the few elements with tiny gradients. Moving every parameter by
    one unit in its last place moves it by up to 1.3e-10 (6e-15 with SGD), and the numbers agree to
    3e-11. So the common tolerance holds, in float64; in float32 nothing is left of them.
    """
    for step in ("meta/0", "meta/1"):
        virtual = yield from _check_step(case, step, "fresh-adam", _fresh_adams(case), 0.0)
        after = parameters_of(case, f"{step}/shadow_param_after/")
        # the official step begins from an empty state: it leaves none behind
        yield f"{step}/state_after_is_empty", np.array(1), case[f"{step}/state_after_is_empty"]
        yield f"{step}/shadow_param_after/item_embedding", virtual.item_embedding, after.item_embedding
        for name, array in virtual.arrays.items():
            yield f"{step}/shadow_param_after/{name}", array, after.arrays[name]


def check_meta_sgd(case: Case) -> Comparisons:
    """One step with an SGD inner update."""
    learning_rate = float(case["meta_sgd/lr"])
    yield from _check_step(case, "meta_sgd", "sgd", _fresh_adams(case), learning_rate)


def check_meta_warm(case: Case) -> Comparisons:
    """One step with Adam from a given state."""
    dense_adam, item_adam = _fresh_adams(case, float(case["meta_warm/lr"]))
    first, second = (parameters_of(case, f"meta_warm/{m}/") for m in ("exp_avg", "exp_avg_sq"))
    dense_adam.first, dense_adam.second = first.dense, second.dense
    item_adam.first, item_adam.second = first.item_embedding, second.item_embedding
    dense_adam.n_steps = item_adam.n_steps = case.scalar("meta_warm/step")
    yield from _check_step(case, "meta_warm", "adam", (dense_adam, item_adam), 0.0)


@dataclass(frozen=True)
class _PaddedBatch:
    """A batch of a case file, its objective, and which user each token is of."""

    batch: TrainingBatch
    objective: BinaryCrossEntropy
    user_of_token: Array  # (T,)

    @classmethod
    def read(cls, case: Case, prefix: str, *, frozen: bool = False) -> _PaddedBatch:
        """The loss counts tokens with a next item; `frozen` freezes all, as official of augmented ones."""
        inputs, tokens = pack_padded(case[f"{prefix}/seq"])
        positives, negatives = (
            case[f"{prefix}/{n}"].ravel()[tokens].astype(np.int64) for n in ("pos", "neg")
        )
        scored = np.flatnonzero(positives)
        batch = TrainingBatch(inputs, positives[scored], scored, np.arange(len(tokens)) if frozen else None)
        user_of_token = tokens // case[f"{prefix}/seq"].shape[1]
        return cls(batch, BinaryCrossEntropy(negatives[scored]), user_of_token)

    def gradient(self, parameters: SASRecParameters) -> BatchGradient:
        """Without dropout."""
        return differentiate(parameters, self.batch, lambda _: self.objective, None)[0]


def _check_step(
    case: Case, group: str, optimizer: InnerOptimizer, adams: tuple[Adam, Adam], sgd_learning_rate: float
) -> Generator[tuple[str, Array, Array], None, SASRecParameters]:
    """Losses and gradients of the poolers of one bilevel step; its virtual parameters are returned."""
    parameters = parameters_of(case)
    base = _PaddedBatch.read(case, "forward")
    shown = _PaddedBatch.read(case, f"{group}/augmented", frozen=True)
    meta = _PaddedBatch.read(case, "meta/overlap")
    inputs, tokens = pack_padded(case[f"{group}/augmented/seq"])
    given = case[f"{group}/augmented/input_embeddings"].reshape(-1, parameters.config.hidden)
    yield f"{group}/augmented/input_embeddings", parameters.item_embedding[inputs.rows], given[tokens]
    of_augmented, run = differentiate(parameters, shown.batch, lambda _: shown.objective, None)
    # the official optimisers step along rows without a gradient, too
    gradient = with_all_rows(combine(base.gradient(parameters), of_augmented), parameters)
    yield f"{group}/shadow_loss", np.array(gradient.loss), case[f"{group}/shadow_loss"]

    step = virtual_step(optimizer, gradient, *adams, sgd_learning_rate)
    loss, d_inputs = meta_gradient(parameters, gradient, step, run, meta.gradient)
    yield f"{group}/meta_loss", np.array(loss), case[f"{group}/meta_loss"]

    source = case["recall/source_domain"]
    in_second = shown.batch.inputs.rows > case.scalar("config.items_a")
    inserted = np.flatnonzero(in_second != source[shown.user_of_token])  # of the other domain
    augmented = AugmentedBatch(
        shown.batch, inserted, shown.user_of_token[inserted], case.scalar("config.recall_k")
    )
    d_pooled = augmented.straight_through(d_inputs, len(source))
    for domain, letter in enumerate("ab"):
        users = np.flatnonzero(source == 1 - domain)
        _, cache = _pool(case, users, letter)
        found = pool_backward(d_pooled[users], cache)
        yield f"{group}/grad/pooler_{letter}", found[None], case[f"{group}/grad/pooler_{letter}"]
    return _stepped(parameters, step)


def _pool(case: Case, users: Array, letter: str) -> tuple[Array, PoolCache]:
    """Pool the names of some users for one domain."""
    counts = case["recall/generated_count"][users]
    real = np.arange(case["recall/generated"].shape[1]) < counts[:, None]  # (users, names)
    names = project(case["recall/generated"][users][real], case[f"recall/projection_{letter}"])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return pool(names, offsets, case[f"recall/pooler_{letter}"].reshape(-1))


def _fresh_adams(case: Case, learning_rate: float = 1e-3) -> tuple[Adam, Adam]:
    parameters = parameters_of(case)
    settings = AdamSettings(learning_rate=learning_rate)
    return Adam(parameters.dense, settings), Adam(parameters.item_embedding, settings)


def _stepped(parameters: SASRecParameters, step: VirtualStep) -> SASRecParameters:
    return SASRecParameters(
        parameters.config,
        parameters.item_embedding - step.items.change,
        parameters.dense - step.dense.change,
    )
