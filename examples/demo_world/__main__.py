"""``make demo-model`` makes the demo model anew: ``PYTHONPATH=examples python -m demo_world models``."""

from __future__ import annotations

from pathlib import Path

import click

from llmcdsr_lite.cli.commands import FilePath
from llmcdsr_lite.cli.errors import Command
from llmcdsr_tools.cli.options import needs_train_extra, overwrite_option
from llmcdsr_tools.pipeline.progress import fit_progress


@click.command(cls=Command)
@click.argument("folder", type=FilePath)
@click.option("--report", type=FilePath, help="Keep the report here.")
@overwrite_option
@needs_train_extra
def main(folder: Path, report: Path | None, overwrite: bool) -> None:
    """Make the demo model and its sample histories in FOLDER.

    The same bytes come out again on the same kind of processor, whatever the number of threads. On another
    kind OpenBLAS rounds otherwise, vectors differ by up to 0.01 or so, and a choice that is close (of
    what is done with pseudo items) may fall the other way. OPENBLAS_CORETYPE=Haswell, as `make demo-model`
    sets it, takes the kernels that all x86-64 processors with AVX2 have.
    """
    from demo_world.model import HISTORIES, make_demo_model

    result = make_demo_model(folder, report=report, overwrite=overwrite, observer=fit_progress())
    seconds = sum(stage.seconds for stage in result.stages)
    click.echo(f"{result.bundle} and {folder / HISTORIES} written in {seconds:.0f} s")


if __name__ == "__main__":
    main(prog_name="python -m demo_world")
