"""Fixtures that several tests share."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import settings
from mutation import FIRST, N_CASES

from llmcdsr_lite.bundle.folder import ITEM_VECTORS, Bundle, write_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.text.title_neighbours import TitleMap, Weighing

settings.register_profile("any machine", deadline=None)  # a busy one stands still now and then
settings.register_profile("quick", deadline=None, max_examples=25)  # of `make test`
settings.load_profile("any machine")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a job that a script put in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the day's damaged files where tests of them ran."""
    ran = [report.nodeid for end in ("passed", "failed") for report in terminalreporter.getreports(end)]
    if any("mutation" in name for name in ran):
        terminalreporter.write_line(f"{N_CASES} damaged files of a kind, LLMCDSR_FIRST_MUTATION={FIRST}")


@pytest.fixture(scope="session")
def food_kitchen() -> Path:
    """The official data, which is never part of the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "food-kitchen"
    if not folder.is_dir():
        pytest.skip(f"the official data is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def bundle_data() -> Bundle:
    """A small model with random weights: 12 food items f0.., 18 kitchen items k0.., histories up to 6."""
    n_food, n_kitchen = 12, 18
    rng = np.random.default_rng(7)
    config = SASRecConfig(n_food + n_kitchen, hidden=8, n_blocks=2, n_heads=2, max_length=6, dropout=0.0)
    parameters = SASRecParameters.initial(config, rng)
    parameters.dense += rng.normal(0, 0.3, parameters.dense.shape).astype(np.float32)
    parameters.item_embedding[1:] = rng.normal(size=(config.n_items, config.hidden))
    ids = [f"f{n}" for n in range(n_food)] + [f"k{n}" for n in range(n_kitchen)]
    titles = [f"Café beans No. {n}" for n in range(n_food)] + [f'Pan, "size {n}"' for n in range(n_kitchen)]
    catalogue = Catalogue.from_sizes(ids, titles, ("food", "kitchen"), (n_food, n_kitchen))
    counts = np.concatenate([[0], rng.integers(0, 9, config.n_items)])  # with ties
    return Bundle(catalogue, parameters, counts, {"epoch": 3})


@pytest.fixture(scope="session")
def build_bundle() -> Callable[[Bundle, Path], Path]:
    """Write a bundle folder with the ONNX graph of its parameters."""

    def build(bundle: Bundle, folder: Path) -> Path:
        from llmcdsr_tools.export.onnx_graph import build_onnx

        onnx_model = build_onnx(bundle.parameters, ITEM_VECTORS, 128)  # behind the header that np.save writes
        write_bundle(bundle, folder, onnx_model=onnx_model, model_card="# A test\n")
        return folder

    return build


@pytest.fixture(scope="session")
def bundle_folder(
    bundle_data: Bundle,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """`bundle_data` on disk; copy it before changing anything."""
    return build_bundle(bundle_data, tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture(scope="session")
def recall_network(bundle_data: Bundle) -> RecallNetwork:
    """A recall network of random vectors for `bundle_data`; f0 and k0 have no title, k1 no vector."""
    rng = np.random.default_rng(11)
    n_rows, hidden, text = len(bundle_data.catalogue) + 1, 5, 7
    names, items = rng.normal(size=(2, n_rows, hidden)).astype(np.float32)
    names[[0, 1, 13]] = 0
    names = names[None]  # of two domains, an item is not of one
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[[0, 14]] = 0
    poolers, projections = rng.normal(size=(2, hidden)), rng.normal(size=(2, hidden, text))
    poolers, projections = poolers.astype(np.float32), projections.astype(np.float32)
    return RecallNetwork(names, items, poolers, projections, (1.5, 2.5))


@pytest.fixture(scope="session")
def naive_representation(bundle_data: Bundle) -> Callable[[list[int]], npt.NDArray[np.float64]]:
    """User representation of `bundle_data` in float64, token by token, straight from the formulas."""
    p = bundle_data.parameters
    config = p.config
    size = config.hidden // config.n_heads

    def norm(x: Any, weight: Any, bias: Any) -> Any:
        return (x - x.mean()) / np.sqrt(x.var() + config.epsilon) * weight + bias

    def represent(rows: list[int]) -> npt.NDArray[np.float64]:
        rows = rows[-config.max_length :]
        first = config.max_length - len(rows)
        table, places = p.item_embedding.astype(np.float64), p.position_embedding.astype(np.float64)
        xs = [table[row] * config.hidden**0.5 + places[first + t] for t, row in enumerate(rows)]
        for b in p.blocks:
            out = []
            for t in range(len(xs)):
                normalized = norm(xs[t], b.attention_norm_weight, b.attention_norm_bias)
                query = b.query_weight @ normalized + b.query_bias
                mixed = []
                for head in range(config.n_heads):
                    part = slice(head * size, (head + 1) * size)
                    pairs = [b.key_value_weight @ x + b.key_value_bias for x in xs[: t + 1]]
                    logits = [query[part] @ kv[: config.hidden][part] / size**0.5 for kv in pairs]
                    weights = np.exp(np.array(logits) - max(logits))
                    weights /= weights.sum()
                    mixed.append(
                        sum(w * kv[config.hidden :][part] for w, kv in zip(weights, pairs, strict=True))
                    )
                attended = b.output_weight @ np.concatenate(mixed) + b.output_bias + normalized
                z = norm(attended, b.feed_forward_norm_weight, b.feed_forward_norm_bias)
                inner = np.maximum(b.inner_weight @ z + b.inner_bias, 0)
                out.append(z + b.outer_weight @ inner + b.outer_bias)
            xs = out
        return norm(xs[-1], p.norm_weight, p.norm_bias)

    return represent


@pytest.fixture(scope="session")
def script() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a script of benchmarks/ in a process."""

    def run(name: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, Path(__file__).parents[1] / "benchmarks" / name, *arguments]
        return subprocess.run(command, capture_output=True, timeout=300, check=False, **options)

    return run


@pytest.fixture(scope="session")
def llmcdsr() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a command line in this process: one of its own would import everything anew, for a second."""
    from llmcdsr_tools.cli.commands import cli

    def run(
        *arguments: str | Path, cwd: Path | str = ".", **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        words = [str(argument) for argument in arguments]
        with contextlib.chdir(cwd):
            result = CliRunner().invoke(cli, words, prog_name="llmcdsr", **options)
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception  # a traceback, in a process
        return subprocess.CompletedProcess(words, result.exit_code, result.stdout_bytes, result.stderr_bytes)

    return run


@pytest.fixture(scope="session")
def llmcdsr_process() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the installed console command in a process of its own."""
    command = Path(sys.executable).with_name("llmcdsr")

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([command, *arguments], capture_output=True, timeout=120, check=False, **options)

    return run


@pytest.fixture(scope="session")
def history_lines(bundle_data: Bundle) -> Callable[[int], list[str]]:
    """Lines of a JSON Lines history file, some with a domain, an unknown item or no item at all."""

    def lines(n: int) -> list[str]:
        rng = np.random.default_rng(5)
        made = []
        for user in range(n):
            history = rng.choice(bundle_data.catalogue.ids, rng.integers(0, 10)).tolist()
            record: dict[str, Any] = {"user": f"u{user}", "history": history}
            if user % 5 == 1:
                record["domain"] = ("food", "kitchen")[user % 2]
            if user % 7 == 2:
                history.insert(0, "nowhere")
            made.append(json.dumps(record) + "\n")
        return made

    return lines


@pytest.fixture
def without_train_extra(tmp_path: Path) -> dict[str, str]:
    """An environment in which onnx and threadpoolctl cannot be imported."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("onnx", "threadpoolctl"):
        text = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        (blocked / f"{name}.py").write_text(text)
    return {**os.environ, "PYTHONPATH": str(blocked)}


@pytest.fixture(scope="session")
def title_map(bundle_data: Bundle) -> TitleMap:
    """What makes vectors of new items for `bundle_data`, of 7 values a text; f2 and k3 have no title."""
    rng = np.random.default_rng(13)
    directions = rng.normal(size=(len(bundle_data.catalogue) + 1, 4))
    directions *= 127 / np.linalg.norm(directions, axis=1, keepdims=True)
    directions[[0, 3, 16]] = 0
    components = rng.normal(size=(8, 4)).astype(np.float32)
    weighings = (Weighing(4.0, 1.25), Weighing(9.0, 0.75, {"n_places": 3}))
    return TitleMap(components, np.rint(directions).astype(np.int8), weighings, n_neighbours=5)
