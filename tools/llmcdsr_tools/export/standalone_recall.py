"""Pseudo items in the standalone graph: recalled as `llmcdsr_lite.pseudo` does for ``pseudo="auto"``.

Shapes as in `standalone_graph`; Q newest items, P recalled pseudo items, S items of a sequence.
"""

from __future__ import annotations

import numpy as np

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.model.backends import INPUT_NAME
from llmcdsr_lite.model.onnx_graph import TYPES, Graph

_FLOAT, _INT = TYPES["float32"], TYPES["int64"]
_NEVER = -1e30  # logit of an item that says nothing


class Recall:
    """Adds the nodes of pseudo items to a graph.

    Parameters
    ----------
    graph : Graph
    bundle : Bundle
        With a recall network.
    """

    def __init__(self, graph: Graph, bundle: Bundle) -> None:
        assert bundle.recall is not None
        self.graph = graph
        self.bundle = bundle
        self.network = bundle.recall

    def add_cosines(self) -> None:
        """Add the cosine (D + 1, R) of every row to the pooled names of each domain."""
        graph = self.graph
        pooled = self._pooled()  # (D, H')
        squares = graph.node("Mul", [pooled, pooled], "recall.squares")
        total = graph.node("ReduceSum", [squares, "at.one"], "recall.square", keepdims=1)
        length = graph.node("Sqrt", [total], "recall.length")
        graph.constant("recall.no_length", 0.0)
        graph.constant("recall.unit", 1.0)
        is_there = graph.node("Greater", [length, "recall.no_length"], "recall.has_length")
        divisor = graph.node("Where", [is_there, length, "recall.unit"], "recall.divisor")
        directions = graph.node("Div", [pooled, divisor], "recall.of_domains")
        graph.constant("recall.of_padding", np.zeros((1, self.network.hidden)))
        directions = graph.node("Concat", [directions, "recall.of_padding"], "recall.directions", axis=0)
        graph.constant("recall.items", self.network.items)
        graph.node("Gemm", [directions, "recall.items"], "recall.cosines", transB=1)

    def _pooled(self) -> str:
        """Pooled names (D, H') of what the newest items say to each domain; zero where they say nothing."""
        graph, network = self.graph, self.network
        n_domains = len(self.bundle.catalogue.domains)
        poolers = np.array(network.poolers)  # of another source than titles: the mean
        poolers[[mix.source != "titles" for mix in self.bundle.mix]] = 0
        graph.constant("names.poolers", poolers[:, None])  # (D, 1, H')
        graph.constant("names.targets", np.arange(n_domains)[:, None], np.int64)
        graph.constant("names.last_slot", [n_domains - 2], np.int64)
        graph.constant("names.vectors", np.reshape(network.names, (-1, network.hidden)))
        graph.constant("names.never", _NEVER)
        graph.constant("names.zero", 0.0)
        graph.constant("names.axis", [2], np.int64)
        own = graph.node("Gather", ["at.domain_of_row", "history.newest"], "names.domains")  # (Q,)
        above = graph.node("Greater", ["names.targets", own], "names.above")  # (D, Q)
        above = graph.node("Cast", [above], "names.one_less", to=_INT)
        slots = graph.node("Sub", ["names.targets", above], "names.slots_or_more")
        # items of the target itself say nothing to it: with one of them, nothing is recalled
        slots = graph.node("Min", [slots, "names.last_slot"], "names.slots")
        places = graph.node("Mul", [slots, "at.n_rows"], "names.first_places")
        places = graph.node("Add", [places, "history.newest"], "names.places")
        said = graph.node("Gather", ["names.vectors", places], "names.said")  # (D, Q, H')
        largest = graph.node(
            "ReduceMax", [graph.node("Abs", [said], "names.abs"), "names.axis"], "names.most", keepdims=0
        )
        is_said = graph.node("Greater", [largest, "names.zero"], "names.is_said")  # (D, Q)
        number = graph.node("Cast", [is_said], "names.is_said_number", to=_FLOAT)
        graph.node("ReduceMax", [number, "at.one"], "names.any", keepdims=0)  # (D,)
        trusted = graph.node("Mul", [said, "names.poolers"], "names.trusted")
        logits = graph.node("ReduceSum", [trusted, "names.axis"], "names.logits", keepdims=0)
        logits = graph.node("Where", [is_said, logits, "names.never"], "names.logits_said")
        weights = graph.node("Softmax", [logits], "names.weights", axis=-1)
        weights = graph.node("Unsqueeze", [weights, "names.axis"], "names.weights_column")
        weighed = graph.node("Mul", [said, weights], "names.weighed")
        return graph.node("ReduceSum", [weighed, "at.one"], "names.pooled", keepdims=0)

    def add_sequences(self, weights: str) -> None:
        """Add the encoder's input (1 or 2, S): the newest items, and those with pseudo items before them.

        `weights` (D + 1,) are those of what is inserted. Nothing is where several domains are asked for.
        """
        graph = self.graph
        weight = graph.node("Gather", [weights, "domains.first_of"], "insert.weight64")
        weight = graph.node("Cast", [weight], "insert.weight_of_first", to=_FLOAT)
        alone = graph.node("Equal", ["domains.n_asked", "at.one"], "insert.alone")
        alone = graph.node("Cast", [alone], "insert.alone_number", to=_FLOAT)
        said = graph.node("Gather", ["names.any", "domains.first_of"], "insert.said")
        weight = graph.node(
            "Mul", [graph.node("Mul", [weight, alone], "insert.if_alone"), said], "insert.weight"
        )
        used = graph.node("Greater", [weight, "names.zero"], "insert.used")
        used = graph.node("Cast", [used], "insert.used_number", to=_INT)  # (1,)
        rows = self._recalled(used)
        items = graph.node("Concat", ["at.zero", rows, "history.items"], "insert.items", axis=0)
        with_them = graph.node("Slice", [items, "at.max_length", "at.end"], "insert.sequence")  # (S,)
        more = graph.node(
            "Sub",
            [
                graph.node("Shape", [with_them], "insert.n"),
                graph.node("Shape", ["history.newest"], "insert.n_newest"),
            ],
            "insert.n_padding",
        )
        padding = graph.node("Expand", ["at.zero", more], "insert.padding")
        without = graph.node("Concat", [padding, "history.newest"], "insert.padded", axis=0)
        pair = [graph.node("Unsqueeze", [one, "at.zero"], f"{one}.row") for one in (without, with_them)]
        both = graph.node("Concat", pair, "insert.both", axis=0)
        n_used = graph.node("Add", [used, "at.one"], "insert.n_sequences")
        graph.node("Slice", [both, "at.zero", n_used, "at.zero"], INPUT_NAME)

    def _recalled(self, used: str) -> str:
        """Rows (P,) of the first domain that is asked for, the least similar first; none unless `used`."""
        graph = self.graph
        sizes = [
            min(mix.n_recalled, domain.n_items)
            for domain, mix in zip(self.bundle.catalogue.domains, self.bundle.mix, strict=True)
        ]
        graph.constant("insert.sizes", sizes, np.int64)
        cosines = graph.node("Gather", ["recall.cosines", "domains.first_of"], "insert.row")
        cosines = graph.node("Squeeze", [cosines, "at.zero"], "insert.cosines")
        own = graph.node("Equal", ["at.domain_of_row", "domains.first_of"], "insert.of_domain")
        cosines = graph.node("Where", [own, cosines, "at.lowest"], "insert.within")
        size = graph.node("Gather", ["insert.sizes", "domains.first_of"], "insert.size")
        k = graph.node("Mul", [size, used], "insert.k")
        graph.node("TopK", [cosines, k], "insert.best", "insert.rows", axis=0)
        before = graph.constant("insert.before_all", [-(2**31)], np.int64)
        return graph.node(
            "Slice", ["insert.rows", "at.minus_one", before, "at.zero", "at.minus_one"], "insert.reversed"
        )

    def add_user(self, users: str) -> str:
        """Add the representation (1, H): that of the newest items, moved to the one with pseudo items."""
        graph = self.graph
        plain = graph.node("Slice", [users, "at.zero", "at.one", "at.zero"], "insert.plain")
        other = graph.node("Slice", [users, "at.minus_one", "at.end", "at.zero"], "insert.other")
        difference = graph.node("Sub", [other, plain], "insert.difference")
        moved = graph.node("Mul", [difference, "insert.weight"], "insert.moved")
        return graph.node("Add", [plain, moved], "insert.user")
