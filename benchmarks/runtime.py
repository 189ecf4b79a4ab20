"""The runtime beside its baselines on this machine: ``python benchmarks/runtime.py --model BUNDLE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from llmcdsr_lite.cli.commands import FilePath, example, json_option, model_option
from llmcdsr_lite.cli.errors import Command
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.cli.options import overwrite_option
from runtime_bench.parent import BenchSettings, bench
from runtime_bench.report import format_line, format_report


@click.command(cls=Command)
@model_option
@click.option(
    "--requests",
    "n_requests",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="For each latency.",
)
@click.option(
    "--soak",
    "n_soak",
    type=click.IntRange(0),
    default=100_000,
    show_default=True,
    help="Requests before memory is looked at again (exact search, one thread).",
)
@click.option("--threads", multiple=True, type=click.IntRange(1, 256), default=[1, 2], show_default=True)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Measure these configurations alone, such as onnx-exact-1, numpy-* or torch-*.",
)
@click.option("--quick", is_flag=True, help="A few requests each: to see that it runs, not to quote.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the histories.")
@click.option(
    "--baseline-python",
    metavar="PATH",
    default=sys.executable,
    help="A Python with PyTorch, or RePlay, or both; this one by default.",
)
@click.option("-o", "--output", type=FilePath, help="Write all figures to this file, too, as JSON.")
@overwrite_option
@json_option
@example("python benchmarks/runtime.py --model models/demo --quick --only 'onnx-*-1'")
def main(
    model: Path,
    n_requests: int,
    n_soak: int,
    threads: tuple[int, ...],
    only: tuple[str, ...],
    quick: bool,
    seed: int,
    baseline_python: str,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure the runtime on this machine: latency, users a second, start, memory.

    Every configuration (backend, search, threads) runs in a process of its own. Where PyTorch and RePlay are
    installed, they are measured in the same run, as baselines. Prints Markdown, or JSON with --json.
    """
    if output is not None and output.exists() and not overwrite:  # before anything takes long
        raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")
    settings = BenchSettings(
        n_requests=n_requests,
        n_soak=n_soak,
        threads=threads,
        seed=seed,
        only=only,
        baseline_python=baseline_python,
    )
    report = bench(
        model,
        settings.quick() if quick else settings,
        lambda outcome: click.echo(format_line(outcome), err=True),
    )
    figures = json.dumps(report.as_json(), indent=2) + "\n"
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(figures, encoding="utf-8")
    click.echo(figures if as_json else format_report(report), nl=not as_json)


if __name__ == "__main__":
    main()
