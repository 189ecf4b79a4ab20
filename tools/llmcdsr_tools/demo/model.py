"""The shipped demo model: ``python -m llmcdsr_tools.demo models`` makes it from nothing.

The invented world (`demo_world`) goes through the whole pipeline (`fit`, as ``fit.toml`` says) to the
bundle ``models/demo`` with sample histories beside it.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import click

from llmcdsr_lite.errors import DataError, LlmcdsrError
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.demo.world import sample_histories, write_demo_world
from llmcdsr_tools.fit.config import load_config
from llmcdsr_tools.fit.stage import FitObserver, FitResult, fit

BUNDLE = "demo"
HISTORIES = "demo-histories.jsonl"
CONFIG = "fit.toml"


def make_demo_model(
    folder: Path,
    *,
    n_users: int = 6000,
    report: Path | None = None,
    overwrite: bool = False,
    observer: FitObserver | None = None,
) -> FitResult:
    """Invent the demo world and run the pipeline on it.

    Parameters
    ----------
    folder : Path
        Gets the bundle ``demo`` and the file ``demo-histories.jsonl``.
    n_users : int
        Users of the world.
    report : Path, optional
        Where to keep the report; it is thrown away if not given.
    overwrite : bool
        Replace a bundle that is there.
    observer : FitObserver, optional
        Told how the pipeline goes.

    Returns
    -------
    FitResult

    Raises
    ------
    DataError
        If the bundle is there and must not be overwritten.
    """
    bundle = folder.resolve() / BUNDLE  # the configuration's own folder is another one
    if bundle.exists() and not overwrite:
        raise DataError(f"{bundle}: exists already; choose another folder or ask for it to be overwritten")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_demo_world(work, n_users=n_users)
        path = work / "fit.toml"
        path.write_text(
            files("llmcdsr_tools.demo").joinpath(CONFIG).read_text(encoding="utf-8"), encoding="utf-8"
        )
        config = load_config(path)
        kept = config.report if report is None else report.resolve()
        result = fit(replace(config, bundle=bundle, report=kept), observer=observer)
    with atomic_file(folder / HISTORIES) as temporary:
        lines = (json.dumps(sample._asdict()) + "\n" for sample in sample_histories())
        temporary.write_text("".join(lines), encoding="utf-8")
    return result


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--report", type=click.Path(path_type=Path), help="Keep the report here.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
def main(folder: Path, report: Path | None, overwrite: bool) -> None:
    """Make the demo model and its sample histories in FOLDER."""
    from llmcdsr_tools.cli.progress import fit_progress

    try:
        result = make_demo_model(folder, report=report, overwrite=overwrite, observer=fit_progress())
    except LlmcdsrError as error:
        raise click.ClickException(str(error)) from None
    seconds = sum(stage.seconds for stage in result.stages)
    click.echo(f"{result.bundle} and {folder / HISTORIES} written in {seconds:.0f} s")


if __name__ == "__main__":
    main()
