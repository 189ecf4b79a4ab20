"""The standalone ONNX graph of a bundle: from a history's item rows to ranked item rows, weights included.

The encoder is that of the bundle's own graph (`model.recommender_graph`); the mix of experts is in
`standalone_mix`. Every item is scored in float32, and those that can be among the best once more in float64,
as `search.exact` does, so that ties and the order of near ties are Python's. Shapes: L known items of the
history and a padding row before them, R = items + 1 rows, D domains, C candidates.
"""

from __future__ import annotations

import json

import numpy as np

from llmcdsr_lite.bundle.folder import CONFIG, Bundle
from llmcdsr_lite.model.backends import ITEM_TABLE_NAME, OUTPUT_NAME
from llmcdsr_lite.model.onnx_graph import TYPES, Graph, Tensor, model_bytes
from llmcdsr_lite.model.recommender_graph import add_recommender
from llmcdsr_lite.search.exact import longest
from llmcdsr_tools.export.standalone_mix import Mix

OPSET = 18  # the first with a ScatterElements that takes the maximum
INPUTS = (
    Tensor("history", "int64", ("length",)),
    Tensor("excluded", "int64", ("excluded",)),
    Tensor("domains", "int64", ("domains",)),
    Tensor("k", "int64", (1,)),
)
OUTPUTS = (Tensor("rows", "int64", ("found",)), Tensor("scores", "float32", ("found",)))
_END = 2**31 - 1


def build_standalone(bundle: Bundle) -> bytes:
    """Build the standalone ONNX model of a bundle: weights, mix of experts and search in one graph.

    Parameters
    ----------
    bundle : Bundle

    Returns
    -------
    bytes
        The serialised model. Its metadata says which rows each domain has, and where seen items are left out.
    """
    graph = Graph()
    graph.constant(ITEM_TABLE_NAME, bundle.item_vectors)
    _Standalone(graph, bundle).build()
    return model_bytes(graph, "recommendations", INPUTS, OUTPUTS, OPSET, _metadata(bundle))


def _metadata(bundle: Bundle) -> dict[str, str]:
    domains = [
        {"name": domain.name, "start": domain.start, "stop": domain.stop, "exclude_seen": mix.exclude_seen}
        for domain, mix in zip(bundle.catalogue.domains, bundle.mix, strict=True)
    ]
    found = {"domains": json.dumps(domains, ensure_ascii=False)}
    if CONFIG in bundle.hashes:
        found["bundle_config_sha256"] = bundle.hashes[CONFIG]
    return found


class _Standalone:
    def __init__(self, graph: Graph, bundle: Bundle) -> None:
        self.graph = graph
        self.bundle = bundle
        self.domains = bundle.catalogue.domains
        self.n_rows = len(bundle.catalogue) + 1

    def build(self) -> None:
        graph = self.graph
        n_domains = len(self.domains)
        of_rows = np.full(self.n_rows, n_domains)  # padding is of no domain
        for index, domain in enumerate(self.domains):
            of_rows[domain.start : domain.stop] = index
        for name, value in (
            ("at.zero", [0]),
            ("at.one", [1]),
            ("at.minus_one", [-1]),
            ("at.end", [_END]),
            ("at.n_domains", [n_domains]),
            ("at.n_rows", [self.n_rows]),
            ("at.rows_shape", [self.n_rows]),
            ("at.max_length", [-self.bundle.parameters.config.max_length]),
            ("at.domain_ids", np.arange(n_domains + 1)),
            ("at.domain_of_row", of_rows),
        ):
            graph.constant(name, value, np.int64)
        graph.constant("at.lowest", -np.inf)
        known = self.known_rows("history")
        graph.node("Equal", [graph.node("Size", [known], "history.n"), "at.zero"], "history.is_empty")
        graph.node("Concat", ["at.zero", known], "history.rows", axis=0)  # (1 + L,): never without a row
        graph.node("Slice", ["history.rows", "at.max_length", "at.end"], "history.newest")
        self.asked()
        self.allowed()
        mix = Mix(graph, self.bundle)
        mix.add_experts()
        mix.add_sequences()  # of the history, and with pseudo items before it where they are inserted
        add_recommender(graph, self.bundle.parameters)
        user = mix.add_user(OUTPUT_NAME)  # (1, H)
        self.rank(user, mix.added)

    def known_rows(self, name: str) -> str:
        """An input without what is not an item row."""
        graph = self.graph
        above = graph.node("Greater", [name, "at.zero"], f"{name}.above")
        below = graph.node("Less", [name, "at.n_rows"], f"{name}.below")
        known = graph.node("And", [above, below], f"{name}.known")
        return graph.node("Compress", [name, known], f"{name}.items", axis=0)

    def asked(self) -> None:
        """Which domains are asked for (D + 1,), how many they are, and the first of them; no list is all."""
        graph = self.graph
        graph.constant("domains.all", np.arange(len(self.domains)), np.int64)
        n_listed = graph.node("Shape", ["domains"], "domains.n_listed")
        is_open = graph.node("Equal", [n_listed, "at.zero"], "domains.is_open")
        opened = graph.node("Expand", [is_open, "at.n_domains"], "domains.opened")
        others = graph.node("Compress", ["domains.all", opened], "domains.others", axis=0)
        listed = graph.node("Concat", ["domains", others], "domains.listed", axis=0)
        # an index from the end would be one, too: it must fail like one that is too large
        negative = graph.node("Less", [listed, "at.zero"], "domains.negative")
        indices = graph.node("Where", [negative, "at.n_domains", listed], "domains.indices")
        checked = graph.node("Gather", ["domains.all", indices], "domains.checked")
        graph.node("ReduceMin", [checked], "domains.first", keepdims=0)
        graph.node("Unsqueeze", ["domains.first", "at.zero"], "domains.first_of")  # (1,)
        column = graph.node("Unsqueeze", [checked, "at.one"], "domains.column")
        equal = graph.node("Equal", [column, "at.domain_ids"], "domains.equal")  # (listed, D + 1)
        counted = graph.node("Cast", [equal], "domains.counted", to=TYPES["int64"])
        graph.node("ReduceMax", [counted, "at.zero"], "domains.asked", keepdims=0)
        graph.node("ReduceSum", ["domains.asked"], "domains.n_asked", keepdims=0)

    def allowed(self) -> None:
        """Which rows may be recommended (R,), and how many they are."""
        graph = self.graph
        asked = graph.node("Gather", ["domains.asked", "at.domain_of_row"], "rows.asked")  # (R,), 0 or 1
        excluded = self.known_rows("excluded")
        nothing = graph.node("Mul", [excluded, "at.zero"], "excluded.nothing")
        left = graph.node("ScatterElements", [asked, excluded, nothing], "rows.left", axis=0, reduction="mul")
        graph.node("Greater", [left, "at.zero"], "rows.allowed")
        graph.node("ReduceSum", [left], "rows.n_left", keepdims=1)

    def rank(self, user: str, added: str | None) -> None:
        """The best k rows, and their scores, of a user (1, H) to whose dot products (R,) are added."""
        graph = self.graph
        shape = graph.constant("rank.flat_shape", [-1], np.int64)
        product = graph.node("Gemm", [user, ITEM_TABLE_NAME], "rank.product", transB=1)  # (1, R)
        scores = graph.node("Reshape", [product, shape], "rank.scores")
        error = self.error(user, added)
        if added is not None:
            small = graph.node("Cast", [added], "rank.added", to=TYPES["float32"])
            scores = graph.node("Add", [scores, small], "rank.scores_and_added")
        counts = graph.constant("popular.counts", self.bundle.item_counts, np.int64)
        popular = graph.node("Cast", [counts], "popular.values", to=TYPES["float32"])
        scores = graph.node("Where", ["history.is_empty", popular, scores], "rank.all")
        scores = graph.node("Where", ["rows.allowed", scores, "at.lowest"], "rank.allowed")
        at_most = graph.node("Min", ["k", "rows.n_left"], "rank.at_most")
        k = graph.node("Max", [at_most, "at.zero"], "rank.k")
        some = graph.node("Max", [k, "at.one"], "rank.some")
        graph.node("TopK", [scores, some], "rank.best", "rank.best_rows", axis=0)
        last = graph.node("ReduceMin", ["rank.best"], "rank.last", keepdims=0)
        reach = graph.node("Sub", [last, error], "rank.reach")
        reached = graph.node("GreaterOrEqual", [scores, reach], "rank.reached")
        candidate = graph.node("And", [reached, "rows.allowed"], "rank.candidate")
        found = graph.node("NonZero", [candidate], "rank.found")
        rows = graph.node("Reshape", [found, shape], "rank.rows")  # (C,), rising
        exact = self.exact_scores(user, added, rows)
        share = self.popularity(popular, rows)
        final = graph.node("Where", ["history.is_empty", share, exact], "rank.final")
        graph.node("TopK", [final, k], "scores", "rank.places", axis=0)  # of equal scores the lower row first
        graph.node("Gather", [rows, "rank.places"], "rows")

    def error(self, user: str, added: str | None) -> str:
        """Twice how far scores can be from exact ones; see `ExactSearch`."""
        graph = self.graph
        epsilon = float(np.finfo(np.float32).eps)
        n_roundings = self.bundle.item_vectors.shape[1] + 2
        # one percent more in place of the numbers below the normal ones, which no trained score comes near
        share = 2 * n_roundings * epsilon / 2 * longest(self.bundle.item_vectors) * 1.02
        squares = graph.node("Mul", [user, user], "error.squares")
        length = graph.node(
            "Sqrt", [graph.node("ReduceSum", [squares], "error.sum", keepdims=0)], "error.length"
        )
        graph.constant("error.share", share)
        error = graph.node("Mul", [length, "error.share"], "error.of_product")
        if added is None:
            return error
        largest = graph.node("ReduceMax", [graph.node("Abs", [added], "error.abs")], "error.most", keepdims=0)
        graph.constant("error.rounding", 6 * epsilon)
        most = graph.node("Cast", [largest], "error.largest", to=TYPES["float32"])
        rounding = graph.node("Mul", [most, "error.rounding"], "error.of_added")
        return graph.node("Add", [error, rounding], "error.both")

    def exact_scores(self, user: str, added: str | None, rows: str) -> str:
        """Scores (C,) of candidates: sums in float64, rounded to float32."""
        graph = self.graph
        double = TYPES["float64"]
        vectors = graph.node("Gather", [ITEM_TABLE_NAME, rows], "exact.vectors")  # (C, H)
        vectors = graph.node("Cast", [vectors], "exact.vectors64", to=double)
        user = graph.node("Cast", [user], "exact.user64", to=double)
        products = graph.node("Mul", [vectors, user], "exact.products")
        sums = graph.node("ReduceSum", [products, "at.one"], "exact.sums", keepdims=0)
        if added is not None:
            more = graph.node("Gather", [added, rows], "exact.added")
            sums = graph.node("Add", [sums, more], "exact.scores64")
        return graph.node("Cast", [sums], "exact.scores", to=TYPES["float32"])

    def popularity(self, popular: str, rows: str) -> str:
        """Share (C,) of candidates in the interactions of the domains asked for."""
        graph = self.graph
        totals = [self.bundle.item_counts[domain.start : domain.stop].sum() for domain in self.domains]
        graph.constant("popular.totals", [*totals, 0], np.int64)
        of_asked = graph.node("Mul", ["popular.totals", "domains.asked"], "popular.of_asked")
        total = graph.node("ReduceSum", [of_asked], "popular.sum", keepdims=0)
        total = graph.node("Max", [total, "at.one"], "popular.total")
        total = graph.node("Cast", [total], "popular.total32", to=TYPES["float32"])
        return graph.node(
            "Div", [graph.node("Gather", [popular, rows], "popular.some"), total], "popular.share"
        )
