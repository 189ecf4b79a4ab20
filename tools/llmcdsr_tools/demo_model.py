"""The shipped demo model: ``python -m llmcdsr_tools.demo_model models`` makes it from nothing.

The invented world (`demo_world`) goes through the whole pipeline, ingest, train, export, to the bundle
``models/demo`` with sample histories beside it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.demo_world import DOMAINS, sample_histories, write_demo_world
from llmcdsr_tools.export import export
from llmcdsr_tools.ingest import IngestSettings, ingest
from llmcdsr_tools.train import Observer, TrainSettings, train

BUNDLE = "demo"
HISTORIES = "demo-histories.jsonl"
SETTINGS = TrainSettings(loss="sampled-softmax", n_negatives=128, hidden=32, dropout=0.3, patience=5)


def make_demo_model(
    folder: Path,
    *,
    n_users: int = 6000,
    settings: TrainSettings = SETTINGS,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Path:
    """Invent the demo world, train on it and export the bundle.

    Parameters
    ----------
    folder : Path
        Gets the bundle ``demo`` and the file ``demo-histories.jsonl``.
    n_users : int
        Users of the world.
    settings : TrainSettings
    overwrite : bool
        Replace a bundle that is there.
    observer : Observer, optional
        Told how training goes.

    Returns
    -------
    Path
        The bundle.

    Raises
    ------
    DataError
        If the bundle is there and must not be overwritten.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        world = write_demo_world(work, n_users=n_users)
        ingest(
            world.interactions, work / "dataset", items=world.items, settings=IngestSettings(domains=DOMAINS)
        )
        train(work / "dataset", work / "run", settings, observer=observer)
        export(work / "run", folder / BUNDLE, overwrite=overwrite)
    with atomic_file(folder / HISTORIES) as temporary:
        lines = (json.dumps(sample._asdict()) + "\n" for sample in sample_histories())
        temporary.write_text("".join(lines), encoding="utf-8")
    return folder / BUNDLE


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
def main(folder: Path, overwrite: bool) -> None:
    """Make the demo model and its sample histories in FOLDER."""
    from llmcdsr_tools.cli import training_progress

    bundle = make_demo_model(folder, overwrite=overwrite, observer=training_progress())
    click.echo(f"{bundle} and {folder / HISTORIES} written")


if __name__ == "__main__":
    main()
