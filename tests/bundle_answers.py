"""What a bundle's files say, by the formulas in float64, and whether both backends answer so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcdsr_lite import LlmcdsrError, Recommender
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters

if TYPE_CHECKING:
    from bundle_mutants import Mutant

ORDINARY = 50.0  # beyond, rounding of float32 may grow to anything on its way through the model


def read_parameters(mutant: Mutant) -> SASRecParameters:
    model = json.loads(mutant.files["config.json"])["model"]
    vectors = np.load(mutant.folder / "item_vectors.npy")
    config = SASRecConfig(len(vectors) - 1, dropout=0.0, **model)
    return SASRecParameters(config, vectors, np.load(mutant.folder / "dense.npy"))


def representation(p: SASRecParameters, rows: list[int]) -> Any:
    """User representation in float64, straight from the formulas."""
    c = p.config
    size = c.hidden // c.n_heads

    def norm(x: Any, weight: Any, bias: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + c.epsilon) * weight + bias

    rows = rows[-c.max_length :]
    x = p.item_embedding[rows].astype(np.float64) * c.hidden**0.5
    x += p.position_embedding[c.max_length - len(rows) :].astype(np.float64)
    hidden = np.triu(np.full((len(rows), len(rows)), -np.inf), 1)
    for b in p.blocks:
        normalized = norm(x, b.attention_norm_weight, b.attention_norm_bias)
        query = normalized @ b.query_weight.T.astype(np.float64) + b.query_bias
        key, value = np.split(x @ b.key_value_weight.T.astype(np.float64) + b.key_value_bias, 2, axis=1)
        mixed = np.empty_like(x)
        for h in range(c.n_heads):
            part = slice(h * size, (h + 1) * size)
            logits = query[:, part] @ key[:, part].T / size**0.5 + hidden
            weights = np.exp(logits - logits.max(1, keepdims=True))
            mixed[:, part] = weights / weights.sum(1, keepdims=True) @ value[:, part]
        y = norm(
            mixed @ b.output_weight.T.astype(np.float64) + b.output_bias + normalized,
            b.feed_forward_norm_weight,
            b.feed_forward_norm_bias,
        )
        inner = np.maximum(y @ b.inner_weight.T.astype(np.float64) + b.inner_bias, 0)
        x = y + inner @ b.outer_weight.T.astype(np.float64) + b.outer_bias
    return norm(x[-1], p.norm_weight, p.norm_bias)


class Answers:
    """What the files of a mutant say, and checks of what a recommender makes of it."""

    def __init__(self, mutant: Mutant) -> None:
        config = json.loads(mutant.files["config.json"])
        self.ids, self.titles = (json.loads(mutant.files[n]) for n in ("item_ids.json", "item_titles.json"))
        self.rows = {item: row for row, item in enumerate(self.ids, 1)}
        a, b = (domain["items"] for domain in config["domains"])
        self.names = [None, *(domain["name"] for domain in config["domains"])]
        self.ranges = [range(1, a + b + 1), range(1, a + 1), range(a + 1, a + b + 1)]
        self.model = read_parameters(mutant)
        self.counts = np.load(mutant.folder / "item_counts.npy")
        self.mix = config.get("mix")
        listed = "next_starts.npy" in config["files"]
        names = ("starts", "rows", "weights")
        self.next = [np.load(mutant.folder / f"next_{name}.npy") for name in names] if listed else None
        self.vectors = self.model.item_embedding.astype(np.float64)
        self.ordinary = max(np.abs(self.model.dense).max(), np.abs(self.vectors).max()) < ORDINARY
        length = self.model.config.max_length
        self.histories = [[], [3, a + 2, 5], [1 + (7 * i) % (a + b) for i in range(length)]]
        self.expected = [
            representation(self.model, h) if h and self.ordinary else None for h in self.histories
        ]

    def check(self, recommender: Recommender) -> None:
        for number, history in enumerate(self.histories):
            seen = [self.ids[row - 1] for row in history]
            arguments = {"domain": self.names[number], "k": 7}
            try:
                plain = recommender.recommend(seen, pseudo="off", **arguments)
                (user,) = recommender._ranking.backend.represent([np.array(history or [1])])
                users = user.astype(np.float64)
                whole = recommender.recommend(seen, domain=self.names[-1], k=7, explain=number == 1)
            except LlmcdsrError:
                if self.ordinary:  # only absurd values may be refused so late
                    raise
                continue
            self._check_order(whole, self.ranges[-1], self._left_out(history))
            self._check_products(plain, self.ranges[number], history, users)
            expected = self.expected[number]
            if expected is not None:
                assert np.abs(expected - users).max() <= 1e-3 * np.abs(expected).max() + 1e-6, "wrong model"
        near = recommender.similar(self.ids[2], 7)
        self._check_order(near, self.ranges[0], {3})
        assert all(abs(item.score) < 1.0001 for item in near), "cosines beyond 1"

    def _left_out(self, history: list[int]) -> set[int]:
        """Items of the history that no answer has."""
        excluded = [not self.mix or self.mix[d]["exclude_seen"] for d in (0, 1)]
        return {row for row in history if excluded[row in self.ranges[2]]}

    def _mix(self, history: list[int], domain: int) -> Any:
        """What the mix adds to every row of a domain, (items + 1,), by the text of `mix.weights`."""
        amounts = np.zeros(len(self.vectors))
        if not self.mix:
            return amounts
        within = self.ranges[domain + 1]
        weights = self.mix[domain]["warm" if set(history) & set(within) else "cold"]
        near = np.zeros(len(self.vectors))
        if self.next:
            starts, rows, counts = self.next
            for age, row in enumerate(history[::-1][:20]):
                place = domain * len(self.vectors) + row
                part = slice(starts[place], starts[place + 1])
                near[rows[part]] += 0.8**age * counts[part].astype(np.float64)
        for row in within:
            ages = [age for age, one in enumerate(history[::-1]) if one == row]
            amounts[row] = weights["next"] * np.log1p(20.0 * near[row]) + weights["repeat"] * np.log1p(
                len(ages)
            )
            amounts[row] += weights["recent"] * 0.9 ** ages[0] if ages else 0.0
            amounts[row] += weights["popular"] * np.log1p(self.counts[row])
        return amounts

    def _check_order(self, items: Any, within: range, left_out: set[int]) -> list[int]:
        """Rows of an answer: as many as there are, distinct, allowed, finite and in order."""
        found, scores = [self.rows[item.id] for item in items], [item.score for item in items]
        expected = min(7, len(set(within) - left_out))
        assert len(found) == expected == len(set(found)), f"{len(found)} items, expected {expected}"
        assert all(row in within and row not in left_out for row in found), "a forbidden item"
        assert [item.title for item in items] == [self.titles[row - 1] for row in found], "wrong titles"
        assert np.isfinite(scores).all(), "scores that are not finite"
        assert scores == sorted(scores, reverse=True), "scores that are not in order"
        return found

    def _check_products(self, items: Any, within: range, history: list[int], users: Any) -> None:
        """Scores are products and what the mix adds, or shares of the counts, and the highest there are."""
        left_out = self._left_out(history)
        found = self._check_order(items, within, left_out)
        if history:
            added = self._mix(history, self.ranges.index(within) - 1)
            exact = self.vectors @ users + added  # (items + 1,)
            size = np.abs(users).max() * np.abs(self.vectors).max() * len(users) + np.abs(added).max()
        else:
            counts = self.counts.astype(np.float64)
            exact, size = counts / max(1.0, counts[within.start : within.stop].sum()), 1.0
        tolerance = 1e-5 * size + 1e-30
        scores = np.array([item.score for item in items])
        assert np.abs(exact[found] - scores).max() <= tolerance, "scores that are not the products"
        rest = np.setdiff1d(np.array(within), [*left_out, *found])
        assert exact[rest].max() <= scores.min() + tolerance, "a better item was left out"


def check_answers(mutant: Mutant) -> None:
    """Both backends answer, rightly for what is in the files now."""
    with (
        Recommender.load(mutant.folder, backend="numpy") as numpy_recommender,
        Recommender.load(mutant.folder) as onnx_recommender,
    ):
        answers = Answers(mutant)
        answers.check(numpy_recommender)
        answers.check(onnx_recommender)
