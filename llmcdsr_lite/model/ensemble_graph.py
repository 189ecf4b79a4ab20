"""The ONNX form of several members: one graph in which every array has an axis of members in front.

It has about as many nodes as that of one model (`recommender_graph`), so that a request of one user, whose
time goes into starting nodes, costs little more. Shapes: M members, B histories, L items of the longest.
"""

from __future__ import annotations

import math

import numpy as np

from llmcdsr_lite.model.backends import INPUT_NAME, ITEM_TABLE_NAME, OUTPUT_NAME
from llmcdsr_lite.model.ensemble import SASRecEnsemble
from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.onnx_graph import MASKED, TYPES, Graph


def add_ensemble(graph: Graph, ensemble: SASRecEnsemble) -> None:
    """Add the nodes from item rows (B, L) to user representations (B, M * H) to a graph."""
    _Ensemble(graph, ensemble).build()


class _Ensemble:
    def __init__(self, graph: Graph, ensemble: SASRecEnsemble) -> None:
        self.graph = graph
        self.members = ensemble.members
        self.config = ensemble.config
        self.n = len(ensemble.members)

    def build(self) -> None:
        graph, config = self.graph, self.config
        for name, value in (
            ("minus_one", [-1]),
            ("int_max", [2**31 - 1]),
            ("axis_0", [0]),
            ("axis_2", [2]),
            ("last_axis", [-1]),
            ("axes_1_2", [1, 2]),
            ("axes_0_1", [0, 1]),
            ("int_max_twice", [2**31 - 1] * 2),
            ("n_members", [self.n]),
            ("one", [1]),
            ("heads", [config.n_heads, config.hidden // config.n_heads]),
            ("flat", [self.n, -1, config.hidden]),
            ("joined", [-1, self.n * config.hidden]),
        ):
            graph.constant(name, value, np.int64)
        graph.constant("unit", np.ones(config.hidden))
        graph.constant("masked", MASKED)
        graph.constant("seen", 0.0)
        graph.constant("zero", 0, np.int64)
        x, real, visible = self.inputs()
        for number in range(config.n_blocks - 1):
            x = self.block(number, x, x, visible, "shape_heads")
            x = graph.node("Mul", [x, real], f"block{number}.reset")
        apart = graph.node("Reshape", [x, "shape_hidden"], "apart")  # (M, B, L, H)
        last = graph.node("Slice", [apart, "minus_one", "int_max", "axis_2"], "last_token")
        last = graph.node("Reshape", [last, "flat"], "last_flat")  # (M, B, H)
        last_visible = graph.node("Slice", [visible, "minus_one", "int_max", "axis_2"], "last_visible")
        x = self.block(config.n_blocks - 1, last, x, last_visible, "shape_last")
        x = self.layer_norm("norm", x, "norm_weight", "norm_bias", None)
        x = graph.node("Transpose", [x], "by_user", perm=[1, 0, 2])
        graph.node("Reshape", [x, "joined"], OUTPUT_NAME)

    def inputs(self) -> tuple[str, str, str]:
        """Input of the first block (M, B * L, H); 1 for real tokens (B * L, 1); what each query may see."""
        graph, config = self.graph, self.config
        graph.constant("positions", self.stacked("position_embedding", None)[:, None])  # (M, 1, max, H)
        graph.constant("input_scale", math.sqrt(config.hidden))
        graph.constant("causal", np.triu(np.full((config.max_length,) * 2, MASKED), 1))
        graph.constant("by_member", [0, 0, self.n, config.hidden], np.int64)
        graph.constant("column", [-1, 1], np.int64)
        is_real = graph.node("Greater", [INPUT_NAME, "zero"], "is_real")
        real_flat = graph.node("Cast", [is_real], "real_flat", to=TYPES["float32"])
        real = graph.node("Reshape", [real_flat, "column"], "real")
        shape = graph.node("Shape", [INPUT_NAME], "shape")  # B, L
        graph.node("Concat", ["n_members", shape, "heads"], "shape_heads", axis=0)
        graph.constant("hidden", [config.hidden], np.int64)
        graph.node("Concat", ["n_members", shape, "hidden"], "shape_hidden", axis=0)
        n_users = graph.node("Slice", [shape, "zero", "one", "axis_0"], "n_users")
        graph.node("Concat", ["n_members", n_users, "one", "heads"], "shape_last", axis=0)
        length = graph.node("Slice", [shape, "one", "int_max", "axis_0"], "length")
        from_end = graph.node("Neg", [length], "from_end")
        positions = graph.node("Slice", ["positions", from_end, "int_max", "axis_2"], "positions_used")
        embedded = graph.node("Gather", [ITEM_TABLE_NAME, INPUT_NAME], "embedded")  # (B, L, M * H)
        parts = graph.node("Reshape", [embedded, "by_member"], "parts")  # (B, L, M, H)
        of_members = graph.node("Transpose", [parts], "of_members", perm=[2, 0, 1, 3])
        scaled = graph.node("Mul", [of_members, "input_scale"], "scaled")
        placed = graph.node("Add", [scaled, positions], "placed")
        flat = graph.node("Reshape", [placed, "flat"], "placed_flat")
        x = graph.node("Mul", [flat, real], "input")
        both = graph.node("Concat", [from_end, from_end], "from_end_twice", axis=0)
        causal = graph.node("Slice", ["causal", both, "int_max_twice", "axes_0_1"], "causal_used")
        padding = graph.node("Where", [is_real, "seen", "masked"], "padding")
        keys = graph.node("Unsqueeze", [padding, "axes_1_2"], "padding_keys")  # (B, 1, 1, L)
        visible = graph.node("Add", [causal, keys], "visible")
        return x, real, visible

    def block(self, number: int, queries: str, x: str, visible: str, shape: str) -> str:
        """One block for queries (M, Q, H), of the given shape with heads, that look at x (M, B * L, H)."""
        graph, hidden = self.graph, self.config.hidden
        name = f"block{number}"
        scale = (hidden // self.config.n_heads) ** -0.5
        first, second = slice(None, hidden), slice(hidden, None)
        normalized = self.layer_norm(
            f"{name}.norm", queries, "attention_norm_weight", "attention_norm_bias", number
        )
        query = self.linear(f"{name}.query", normalized, "query", number, scale=scale)
        key = self.linear(f"{name}.key", x, "key_value", number, part=first)
        value = self.linear(f"{name}.value", x, "key_value", number, part=second)
        query = self.heads(query, shape, [0, 1, 3, 2, 4])  # (M, B, heads, q, d)
        key = self.heads(key, "shape_heads", [0, 1, 3, 4, 2])
        value = self.heads(value, "shape_heads", [0, 1, 3, 2, 4])
        scores = graph.node("MatMul", [query, key], f"{name}.scores")
        masked = graph.node("Add", [scores, visible], f"{name}.masked")
        weights = graph.node("Softmax", [masked], f"{name}.weights", axis=-1)
        mixed = graph.node("MatMul", [weights, value], f"{name}.mixed")
        together = graph.node("Transpose", [mixed], f"{name}.together", perm=[0, 1, 3, 2, 4])
        merged = graph.node("Reshape", [together, "flat"], f"{name}.merged")
        output = self.linear(f"{name}.output", merged, "output", number)
        y = graph.node("Add", [output, normalized], f"{name}.attended")
        inner_input = self.layer_norm(
            f"{name}.norm2", y, "feed_forward_norm_weight", "feed_forward_norm_bias", number
        )
        inner = self.linear(f"{name}.inner", inner_input, "inner", number)
        active = graph.node("Relu", [inner], f"{name}.active")
        outer = self.linear(f"{name}.outer", active, "outer", number)
        return graph.node("Add", [outer, inner_input], f"{name}.out")

    def heads(self, x: str, shape: str, permutation: list[int]) -> str:
        split = self.graph.node("Reshape", [x, shape], f"{x}.split")
        return self.graph.node("Transpose", [split], f"{x}.heads", perm=permutation)

    def linear(
        self,
        name: str,
        x: str,
        field: str,
        number: int,
        *,
        scale: float = 1.0,
        part: slice = slice(None),
    ) -> str:
        """Affine map of x (M, n, H) with the weights (M, O, H) and biases (M, O) of a field of the blocks."""
        weight = self.stacked(f"{field}_weight", number)[:, part] * scale
        bias = self.stacked(f"{field}_bias", number)[:, part] * scale
        product = self.graph.node(
            "MatMul",
            [x, self.graph.constant(f"{name}.weight", weight.transpose(0, 2, 1))],
            f"{name}.product",
        )
        return self.graph.node("Add", [product, self.graph.constant(f"{name}.bias", bias[:, None])], name)

    def layer_norm(self, name: str, x: str, weight: str, bias: str, number: int | None) -> str:
        """Layer norm of x (M, n, H), each member with weights and biases of its own."""
        graph = self.graph
        plain = graph.node(
            "LayerNormalization", [x, "unit"], f"{name}.plain", axis=-1, epsilon=self.config.epsilon
        )
        weights = graph.constant(f"{name}.weight", self.stacked(weight, number)[:, None])
        scaled = graph.node("Mul", [plain, weights], f"{name}.scaled")
        biases = graph.constant(f"{name}.bias", self.stacked(bias, number)[:, None])
        return graph.node("Add", [scaled, biases], name)

    def stacked(self, field: str, number: int | None) -> FloatArray:
        """An array of every member, of a block or of the whole: (M, ...)."""
        return np.stack([getattr(m if number is None else m.blocks[number], field) for m in self.members])
