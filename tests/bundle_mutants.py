"""Mutants of a bundle, and whether they are refused or answer rightly: ``FIRST STOP BUNDLE WORK``.

A mutant whose hashes were left alone must be refused. One whose sizes and hashes were made to agree may load,
if it could be another model: other item vectors, counts, ids, titles, recall vectors, settings, a card. What
it answers must then be right for what its files say, by sums over all items here in float64. Nobody could
tell such a mutant from a model that was trained so; that is what the hashes are for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from bundle_answers import check_answers, read_parameters
from bundle_damage import signed
from mutation import alarm, limit, tell

from llmcdsr_lite import LlmcdsrError
from llmcdsr_lite.model.recommender_graph import build_onnx

Rng = np.random.Generator
CONFIG = "config.json"
DEEP = "[" * 200_000
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 7, 50, 2**31, 2**63, 10**30, 0.0, -0.0, 1.5, -1e308, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "x", "\ud800", "a\0b", "x" * 5000, "../x", "/etc/passwd", [], {}),
    *([[]], [0, 0], {"a": None}, {"mode": "fuse"}, "off", "insert", "fuse", "titles", "domain"),
]
SHAPES = [
    *("(-1, 8)", "(True, 8)", "(2**40,)", "(9999999999999, 32)", "(99999999999999999999999, 8)"),
    *("()", "(0,)", "(831,)", "(831, 32, 1)", "(1, 831, 32)", "(831, 0)", "(32, 831)", "(4, 207792)"),
    *("831", "None", "[831, 32]", "(831, 32", "(1,)*99"),
]
TYPES = [
    *("<f4", ">f4", "<f8", "|O", "<i8", "<u8", "|S4", "<U1", "|V4", "<M8[s]", "|b1", "<c8", "[('a', 'f4')]"),
]
CODE = ["-" * 9000 + "1", "(" * 500, "{}" * 9, "{'descr': " * 300, "__import__('os')"]
OPERATORS = ["Add", "Sub", "Tanh", "Identity", "Expand", "Loop", "If", "Scan", "Tile"]


class Mutant:
    """A copy of a bundle that can be damaged, and made whole again."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.folder = shutil.copytree(bundle, folder)
        self.whole = {path.name: path.read_bytes() for path in bundle.iterdir()}
        self.whole[CONFIG] = signed(json.loads(self.whole[CONFIG])).encode()
        (folder / CONFIG).write_bytes(self.whole[CONFIG])
        self.names = sorted(json.loads(self.whole[CONFIG])["files"])
        self.files = dict(self.whole)

    def restore(self) -> None:
        for name, content in self.whole.items():
            if self.files.get(name) != content:
                (self.folder / name).write_bytes(content)
        self.files = dict(self.whole)

    def put(self, name: str, content: bytes) -> None:
        self.files[name] = content
        (self.folder / name).write_bytes(content)

    def hash_again(self) -> None:
        config = json.loads(self.files[CONFIG])
        for name in config["files"]:
            content = self.files[name]
            config["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self.put(CONFIG, signed(config).encode())

    def means_the_same(self) -> bool:
        """Whether nothing but the spelling of config.json has changed, or the name of its checksum."""
        if {**self.files, CONFIG: b""} != {**self.whole, CONFIG: b""}:
            return False
        try:
            old, new = (json.loads(files[CONFIG]) for files in (self.whole, self.files))
        except (ValueError, RecursionError):
            return False
        return isinstance(new, dict) and ("config_sha256" not in new or new == old)


def flip_bits(content: bytes, rng: Rng) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(0, len(changed), rng.integers(1, 9)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(content: bytes, rng: Rng) -> bytes:
    start = int(rng.integers(len(content)))
    noise = rng.bytes(int(rng.integers(1, 64)))
    return content[:start] + noise + content[start + len(noise) :]


def truncate(content: bytes, rng: Rng) -> bytes:
    return content[: int(rng.integers(len(content)))]


def grow(content: bytes, rng: Rng) -> bytes:
    n = int(rng.integers(1, 300))
    return content + (bytes(n) if rng.random() < 0.5 else rng.bytes(n))


def cut_out(content: bytes, rng: Rng) -> bytes:
    a, b = sorted(rng.integers(0, len(content), 2).tolist())
    return content[:a] + content[b + 1 :]


def repeat(content: bytes, rng: Rng) -> bytes:
    a, b = sorted(rng.integers(0, len(content), 2).tolist())
    return content[:b] + content[a:b] + content[b:]


BYTES = [flip_bits, overwrite, truncate, grow, cut_out, repeat]


def mutate_bytes(mutant: Mutant, rng: Rng) -> str:
    name = str(rng.choice([CONFIG, *mutant.names]))
    change = BYTES[rng.integers(len(BYTES))]
    mutant.put(name, change(mutant.whole[name], rng))
    return f"{change.__name__} {name}"


def swap_files(mutant: Mutant, rng: Rng) -> str:
    a, b = rng.choice(mutant.names, 2, replace=False).tolist()
    mutant.put(a, mutant.whole[b])
    if rng.random() < 0.7:
        mutant.put(b, mutant.whole[a])
    return f"swap {a} {b}"


def npy_names(mutant: Mutant) -> list[str]:
    return [name for name in mutant.names if name.endswith(".npy")]


def edit_header(mutant: Mutant, rng: Rng) -> str:
    name = str(rng.choice(npy_names(mutant)))
    header = mutant.whole[name][10:128].decode().rstrip()
    kind = rng.integers(4)
    if kind == 0:
        shape = SHAPES[rng.integers(len(SHAPES))]
        header = header[: header.index("'shape'")] + f"'shape': {shape}, }}"
    elif kind == 1:
        header = header.replace("'<f4'", repr(TYPES[rng.integers(len(TYPES))])).replace("'<i8'", "'<f8'")
    elif kind == 2:
        header = header.replace("False", "True")
    else:
        header = CODE[rng.integers(len(CODE))]
    version = [(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)][rng.integers(5)]
    text = header.ljust(117).encode() + b"\n"
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    mutant.put(name, b"\x93NUMPY" + bytes(version) + size + text + mutant.whole[name][128:])
    return f"header of {name}: {header.strip()[:60]}"


def edit_values(mutant: Mutant, rng: Rng) -> str:
    """A few values of an array; the graph of other dense parameters is made to agree, mostly."""
    name = str(rng.choice(npy_names(mutant)))
    content = mutant.whole[name]
    array = np.frombuffer(content[128:], np.float32 if b"<f4" in content[:128] else np.uint8).copy()
    if array.dtype == np.float32:
        values = [0, 1, -1, 30, 1e-42, -1e5, 9e5, 1.1e6, 1e30, -3e38, np.nan, np.inf]
        if rng.random() < 0.2:
            array *= np.float32([0, -1, 0.1, 3, 1e4, 1e30, 1e-20, 1e-42][rng.integers(8)])
        array[rng.integers(0, len(array), rng.integers(1, 9))] = values[rng.integers(len(values))]
    else:
        array[rng.integers(0, len(array), rng.integers(1, 9))] = rng.integers(256)
    mutant.put(name, content[:128] + array.tobytes())
    if name == "dense.npy" and rng.random() < 0.8:
        parameters = read_parameters(mutant)
        mutant.put("recommender.onnx", build_onnx(parameters, "item_vectors.npy", 128))
    return f"values of {name}"


def edit_json(mutant: Mutant, rng: Rng) -> str:
    name = str(rng.choice([CONFIG, CONFIG, CONFIG, "item_ids.json", "item_titles.json"]))
    value = json.loads(mutant.whole[name])
    holder, keys = value, []
    while True:
        key = rng.choice(list(holder)) if isinstance(holder, dict) else int(rng.integers(len(holder)))
        keys.append(key)
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.15:
            break
        holder = inner
    kind = rng.integers(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(inner, int | float):
        holder[key] = type(inner)(inner * (1 + 0.01 * rng.standard_normal()))
    elif kind == 2:
        other = rng.choice(list(holder)) if isinstance(holder, dict) else int(rng.integers(len(holder)))
        holder[key], holder[other] = holder[other], holder[key] if rng.random() < 0.5 else holder[other]
    else:
        holder[key] = JUNK[rng.integers(len(JUNK))]
    content = json.dumps(value, ensure_ascii=bool(rng.integers(2)))
    if rng.random() < 0.05:
        content = content.replace("1", [DEEP, "9" * 6000, "1e999"][rng.integers(3)], 1)
    mutant.put(name, content.encode("utf-8", "surrogatepass"))
    return f"{name} {keys}"


def edit_graph(mutant: Mutant, rng: Rng) -> str:
    """A graph that may be sound in itself, and does something else."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(mutant.whole["recommender.onnx"])
    graph = model.graph
    kind = str(rng.choice(["op", "drop", "edge", "huge", "loop", "outside", "weight", "domain", "reshape"]))
    node = graph.node[rng.integers(len(graph.node))]
    tensors = [t for t in graph.initializer if t.raw_data]
    tensor = tensors[rng.integers(len(tensors))]
    if kind == "op":
        node.op_type = str(rng.choice(OPERATORS))
    elif kind == "drop":
        graph.node.remove(node)
    elif kind == "edge":
        node.input[0] = graph.node[rng.integers(len(graph.node))].output[0]
    elif kind == "huge":
        size = helper.make_tensor("huge_size", TensorProto.INT64, [3], [1 << 20, 1 << 20, 1 << 20])
        graph.initializer.append(size)
        graph.node.append(helper.make_node("ConstantOfShape", ["huge_size"], ["huge"]))
        graph.node.append(helper.make_node("Add", ["huge", "user_representation"], ["more"]))
    elif kind == "loop":
        body = helper.make_graph(
            [helper.make_node("Identity", ["go_on"], ["again"])],
            "body",
            [
                helper.make_tensor_value_info("n", TensorProto.INT64, []),
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            ],
            [helper.make_tensor_value_info("again", TensorProto.BOOL, [])],
        )
        graph.initializer.append(helper.make_tensor("true", TensorProto.BOOL, [], [True]))
        graph.node.insert(0, helper.make_node("Loop", ["", "true"], [], body=body))
    elif kind == "outside":
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        place = str(rng.choice(["../secret", "/etc/passwd", "dense.npy", "config.json"]))
        for key, value in (("location", place), ("offset", "0"), ("length", "32")):
            tensor.external_data.add(key=key, value=value)
    elif kind == "weight":
        tensor.raw_data = flip_bits(tensor.raw_data, rng)
    elif kind == "domain":
        node.domain = str(rng.choice(["com.microsoft", "ai.onnx.ml", "evil"]))
    else:
        tensor.dims[:] = [int(rng.choice([-1, 0, 1 << 40, 3])), *tensor.dims]
    mutant.put("recommender.onnx", model.SerializeToString())
    return f"graph: {kind}"


KINDS: list[Callable[[Mutant, Rng], str]] = [
    *(mutate_bytes, mutate_bytes, swap_files, edit_header),
    *(edit_values, edit_values, edit_json, edit_json, edit_graph),
]


def outcome(mutant: Mutant, rng: Rng) -> str:
    kind = KINDS[rng.integers(len(KINDS))]
    what = kind(mutant, rng)
    hashed = mutant.files != mutant.whole and rng.random() < 0.8
    if hashed:
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            mutant.hash_again()  # or config.json is beyond that
    changed = [name for name, content in mutant.files.items() if content != mutant.whole[name]]
    must_fail = bool(changed) and not hashed and not mutant.means_the_same()
    try:
        check_answers(mutant)
    except LlmcdsrError as error:
        return f"refused: {what}: {error}"
    except AssertionError as error:
        return f"wrong: {what}: {error}"
    except BaseException as error:
        return f"raised: {what}: {type(error).__name__}: {error}"
    if must_fail:
        return f"wrong: {what}: the hashes do not agree"
    return f"right: {what}"


def main() -> None:
    first, stop, bundle, work = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    limit()
    folder = work / f"mutant-{first}"
    mutant = Mutant(bundle, folder)
    try:
        for case in range(first, stop):
            alarm()
            tell(case, outcome(mutant, np.random.default_rng([1, case])))
            mutant.restore()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
