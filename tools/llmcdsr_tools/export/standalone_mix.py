"""The mix of experts in the standalone graph: what is added to the dot products of every row.

The formulas are those of `llmcdsr_lite.mix.weights`. Experts that a bundle does not weigh are not in its
graph. Amounts are float64. Shapes as in `standalone_graph`; Q newest items, N of them with next-item counts.
"""

from __future__ import annotations

import numpy as np

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.mix.dense import popularity
from llmcdsr_lite.mix.weights import EXPERTS, NEXT_DECAY, NEXT_ITEMS, NEXT_SCALE, RECENT_DECAY
from llmcdsr_lite.model.backends import INPUT_NAME
from llmcdsr_lite.model.onnx_graph import TYPES, Graph
from llmcdsr_tools.export.standalone_recall import Recall

_FLOAT, _DOUBLE, _INT = TYPES["float32"], TYPES["float64"], TYPES["int64"]


class Mix:
    """Adds the nodes of the mix to a graph that has those of its inputs.

    Parameters
    ----------
    graph : Graph
    bundle : Bundle

    Attributes
    ----------
    added : str or None
        What is added to the dot products (R,), where anything is.
    """

    def __init__(self, graph: Graph, bundle: Bundle) -> None:
        self.graph = graph
        self.bundle = bundle
        self.added: str | None = None
        warm = np.array([mix.warm.values for mix in bundle.mix])
        cold = np.array([mix.cold.values for mix in bundle.mix])
        self._warm, self._cold = (np.concatenate([w, np.zeros((1, len(EXPERTS)))]) for w in (warm, cold))
        self._weighed = {
            x for x, w in zip(EXPERTS, np.transpose(self._warm + self._cold), strict=True) if w.any()
        }
        self._recall: Recall | None = None

    def add_experts(self) -> None:
        """Add everything but pseudo items that are inserted: `added`."""
        if self._weighed:
            self._weights()
        if self._weighed & {"similar", "inserted"}:
            self._recall = Recall(self.graph, self.bundle)
            self._recall.add_cosines()
        made = {
            "next": self._next,
            "repeat": self._repeat,
            "recent": self._recent,
            "popular": self._popular,
            "similar": self._similar,
        }
        amounts = [make() for name, make in made.items() if name in self._weighed]
        if len(self.bundle.mix) > 1 and any(mix.offset or mix.offset_last for mix in self.bundle.mix):
            amounts.append(self._offsets())
        if amounts:
            self.added = self.graph.node("Sum", amounts, "mix.added")

    def add_sequences(self) -> None:
        """Add the encoder's input: the newest items, and below them those with pseudo items before them."""
        if self._recall is not None and "inserted" in self._weighed:
            self._recall.add_sequences(self._by_domain("inserted"))
        else:
            self.graph.node("Unsqueeze", ["history.newest", "at.zero"], INPUT_NAME)

    def add_user(self, users: str) -> str:
        """Add the user's representation (1, H), of what the encoder makes of its input."""
        if self._recall is not None and "inserted" in self._weighed:
            return self._recall.add_user(users)
        return users

    def _weights(self) -> None:
        """Weights of the experts in every domain (D + 1, experts): the history has items of it or not."""
        graph = self.graph
        of_items = graph.node("Gather", ["at.domain_of_row", "history.rows"], "mix.domains")  # (1 + L,)
        column = graph.node("Unsqueeze", [of_items, "at.one"], "mix.domains_column")
        equal = graph.node("Equal", [column, "at.domain_ids"], "mix.is_of")  # (1 + L, D + 1)
        counted = graph.node("Cast", [equal], "mix.is_of_number", to=_INT)
        warm = graph.node("ReduceMax", [counted, "at.zero"], "mix.warm_number", keepdims=0)
        warm = graph.node("Greater", [warm, "at.zero"], "mix.warm")
        warm = graph.node("Unsqueeze", [warm, "at.one"], "mix.warm_column")
        graph.constant("mix.weights_warm", self._warm, np.float64)
        graph.constant("mix.weights_cold", self._cold, np.float64)
        graph.node("Where", [warm, "mix.weights_warm", "mix.weights_cold"], "mix.weights")

    def _by_domain(self, expert: str) -> str:
        """Weight of an expert in every domain (D + 1,)."""
        index = self.graph.constant(f"mix.{expert}.index", [EXPERTS.index(expert)], np.int64)
        column = self.graph.node("Gather", ["mix.weights", index], f"mix.{expert}.column", axis=1)
        return self.graph.node("Squeeze", [column, "at.one"], f"mix.{expert}.weights")

    def _weighed_by_row(self, expert: str, values: str, domains: str) -> str:
        """Values of an expert for rows (n,) of these domains, weighed."""
        weights = self.graph.node("Gather", [self._by_domain(expert), domains], f"{expert}.weight_of_row")
        return self.graph.node("Mul", [values, weights], f"{expert}.amounts")

    def _spread(self, expert: str, values: str, rows: str) -> str:
        """Amounts (R,) of a sparse expert with these values, from 0, at some rows; the largest of a row."""
        domains = self.graph.node("Gather", ["at.domain_of_row", rows], f"{expert}.domains")
        amounts = self._weighed_by_row(expert, values, domains)
        return self._scattered(amounts, rows, f"{expert}.spread", "max")

    def _spread_logarithms(self, expert: str, values: str, rows: str) -> str:
        """Amounts (R,) of a sparse expert: ``log(1 + x)``, x the sum of the values at the same row."""
        sums = self._scattered(values, rows, f"{expert}.sums", "add")
        own = self.graph.node("Gather", [sums, rows], f"{expert}.own_sums")  # few logarithms are needed
        one = self.graph.constant(f"{expert}.log_one", 1.0, np.float64)
        more = self.graph.node("Add", [own, one], f"{expert}.above_one")
        return self._spread(expert, self.graph.node("Log", [more], f"{expert}.logarithms"), rows)

    def _next(self) -> str:
        """``log(1 + NEXT_SCALE * n)`` (R,) of the sums n of next-item counts, weighed."""
        graph, counts = self.graph, self.bundle.next_counts
        assert counts is not None
        n_domains, n_rows = len(self.bundle.catalogue.domains), len(self.bundle.catalogue) + 1
        graph.constant("next.starts", counts.starts, np.int64)
        graph.constant("next.rows", counts.rows, np.int32)
        graph.constant("next.weights", counts.weights)
        graph.constant("next.decays", NEXT_DECAY ** np.arange(NEXT_ITEMS)[::-1])
        graph.constant("next.newest_only", [-NEXT_ITEMS], np.int64)
        graph.constant("next.firsts", np.arange(n_domains)[:, None] * n_rows, np.int64)
        graph.constant("next.flat", [-1], np.int64)
        graph.constant("next.scale", NEXT_SCALE, np.float64)
        newest = graph.node("Slice", ["history.rows", "next.newest_only", "at.end"], "next.items")  # (N,)
        places = graph.node("Add", [newest, "next.firsts"], "next.places")  # (D, N)
        entries, lists = self._entries(newest, places)
        rows = graph.node("Gather", ["next.rows", entries], "next.found")
        weights = graph.node("Gather", ["next.weights", entries], "next.found_weights")
        from_end = graph.node("Neg", [graph.node("Shape", [newest], "next.n_newest")], "next.from_end")
        decays = graph.node("Slice", ["next.decays", from_end, "at.end"], "next.decays_used")
        shape = graph.node("Shape", [places], "next.shape")
        decays = graph.node("Expand", [decays, shape], "next.decays_of_all")
        decays = graph.node("Reshape", [decays, "next.flat"], "next.decays_flat")
        decays = graph.node("Gather", [decays, lists], "next.decay")
        weights = graph.node("Mul", [weights, decays], "next.decayed")
        weights = graph.node("Cast", [weights], "next.decayed64", to=_DOUBLE)
        scaled = graph.node("Mul", [weights, "next.scale"], "next.scaled")
        return self._spread_logarithms("next", scaled, rows)

    def _entries(self, newest: str, places: str) -> tuple[str, str]:
        """Indices of all entries of the sparse rows at some places (D, N), and which of them each is of."""
        graph = self.graph
        first = graph.node("Gather", ["next.starts", places], "next.first")
        following = graph.node("Add", [places, "at.one"], "next.following")
        after = graph.node("Gather", ["next.starts", following], "next.after")
        lengths = graph.node("Sub", [after, first], "next.lengths_and_padding")
        is_item = graph.node("Greater", [newest, "at.zero"], "next.is_item")
        is_item = graph.node("Cast", [is_item], "next.is_item_number", to=_INT)
        lengths = graph.node("Mul", [lengths, is_item], "next.lengths_of_items")
        lengths = graph.node("Reshape", [lengths, "next.flat"], "next.lengths")  # (D * N,)
        ends = graph.node("CumSum", [lengths, "at.zero"], "next.ends")
        total = graph.node("Slice", [ends, "at.minus_one", "at.end"], "next.total")  # (1,)
        # an entry is of the row before which so many end: one mark at every end, summed from the left
        zeros = graph.node(
            "Expand", ["at.zero", graph.node("Add", [total, "at.one"], "next.n_marks")], "next.zeros"
        )
        ones = graph.node("Expand", ["at.one", graph.node("Shape", [ends], "next.n_rows")], "next.ones")
        marks = graph.node("ScatterElements", [zeros, ends, ones], "next.marks", axis=0, reduction="add")
        lists = graph.node("CumSum", [marks, "at.zero"], "next.lists_and_end")
        lists = graph.node("Slice", [lists, "at.zero", total], "next.lists")  # (entries,)
        begins = graph.node("Sub", [ends, lengths], "next.begins")
        flat = graph.node("Reshape", [first, "next.flat"], "next.first_flat")
        shifts = graph.node("Sub", [flat, begins], "next.shifts")
        shifts = graph.node("Gather", [shifts, lists], "next.shift")
        each = graph.node("Expand", ["at.one", total], "next.each")
        numbers = graph.node("CumSum", [each, "at.zero"], "next.numbers", exclusive=1)
        return graph.node("Add", [numbers, shifts], "next.entries"), lists

    def _repeat(self) -> str:
        """``log(1 + n)`` (R,) of how often each row is in the history, weighed."""
        graph = self.graph
        graph.constant("repeat.one", 1.0, np.float64)
        n_items = graph.node("Shape", ["history.rows"], "repeat.n_items")
        ones = graph.node("Expand", ["repeat.one", n_items], "repeat.ones")
        return self._spread_logarithms("repeat", ones, "history.rows")

    def _recent(self) -> str:
        """``RECENT_DECAY ** age`` (R,) of the newest place of each row in the history, weighed."""
        graph = self.graph
        graph.constant("recent.decay", RECENT_DECAY, np.float64)
        n_items = graph.node("Shape", ["history.rows"], "recent.n_items")
        ones = graph.node("Expand", ["at.one", n_items], "recent.ones")
        ages = graph.node("CumSum", [ones, "at.zero"], "recent.ages", exclusive=1, reverse=1)
        ages = graph.node("Cast", [ages], "recent.ages64", to=_DOUBLE)
        values = graph.node("Pow", ["recent.decay", ages], "recent.of_places")
        return self._spread("recent", values, "history.rows")

    def _popular(self) -> str:
        """``log(1 + n)`` (R,) of the training interactions n of each row, weighed."""
        values = self.graph.constant("popular.logarithms", popularity(self.bundle.item_counts), np.float64)
        return self._weighed_by_row("popular", values, "at.domain_of_row")

    def _similar(self) -> str:
        """Cosine (R,) of each row to the pooled names of its domain, weighed."""
        graph = self.graph
        domains = graph.node("Unsqueeze", ["at.domain_of_row", "at.zero"], "similar.domains")
        own = graph.node("GatherElements", ["recall.cosines", domains], "similar.row", axis=0)  # (1, R)
        values = graph.node("Squeeze", [own, "at.zero"], "similar.values32")
        values = graph.node("Cast", [values], "similar.values", to=_DOUBLE)
        return self._weighed_by_row("similar", values, "at.domain_of_row")

    def _offsets(self) -> str:
        """How much the offset (R,) of a row's domain is above that of the first domain asked for."""
        graph, mixes = self.graph, self.bundle.mix
        graph.constant("offset.always", [*(mix.offset for mix in mixes), 0.0], np.float64)
        graph.constant("offset.if_last", [*(mix.offset_last for mix in mixes), 0.0], np.float64)
        last = graph.node("Slice", ["history.rows", "at.minus_one", "at.end"], "offset.last")
        last = graph.node("Gather", ["at.domain_of_row", last], "offset.last_domain")
        is_last = graph.node("Equal", [last, "at.domain_ids"], "offset.is_last")  # (D + 1,)
        is_last = graph.node("Cast", [is_last], "offset.is_last_number", to=_DOUBLE)
        more = graph.node("Mul", [is_last, "offset.if_last"], "offset.more")
        offsets = graph.node("Add", ["offset.always", more], "offset.of_domains")
        first = graph.node("Gather", [offsets, "domains.first_of"], "offset.first")
        shifts = graph.node("Sub", [offsets, first], "offset.shifts")
        return graph.node("Gather", [shifts, "at.domain_of_row"], "offset.amounts")

    def _scattered(self, values: str, rows: str, name: str, reduction: str) -> str:
        """Sum or maximum (R,) of the values of the same row, zero for others."""
        graph = self.graph
        zero = graph.constant(f"{name}.zero", 0.0, np.float64)
        zeros = graph.node("Expand", [zero, "at.rows_shape"], f"{name}.zeros")
        return graph.node("ScatterElements", [zeros, rows, values], name, axis=0, reduction=reduction)
