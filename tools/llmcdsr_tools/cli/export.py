"""The command ``llmcdsr export``: the bundle of a run, the graph of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from llmcdsr_lite.cli.commands import FilePath, cli, example, json_option
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.cli.evaluation import best_for_option, print_measured
from llmcdsr_tools.cli.options import needs_train_extra, overwrite_option

if TYPE_CHECKING:
    pass


@cli.command()
@click.argument("source", metavar="RUN|BUNDLE", type=FilePath)
@click.option("-o", "--output", type=FilePath, help="Bundle folder to write, of a run.")
@click.option(
    "--standalone",
    type=FilePath,
    metavar="FILE",
    help="Write the bundle as one ONNX graph, too: rows of a history in, ranked rows out. Of a bundle, "
    "nothing but this.",
)
@click.option("--dataset", type=FilePath, help="The run's data set, if it has moved.")
@best_for_option
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is drawn to learn the mix."
)
@click.option("--pretrained", type=FilePath, help="File of `pretrain`: the bundle gets a recall network.")
@click.option(
    "--text-embeddings",
    type=FilePath,
    help="Matrix of `embed`: the bundle can take new items. With --pretrained the one that it was made with.",
)
@click.option(
    "--item-names", type=FilePath, help="File of `embed-names --for items`; needs --pretrained, too."
)
@overwrite_option
@json_option
@example("llmcdsr export run --text-embeddings titles.npy -o bundle")
@needs_train_extra
def export(
    source: Path,
    output: Path | None,
    standalone: Path | None,
    dataset: Path | None,
    best_for: str,
    seed: int,
    pretrained: Path | None,
    text_embeddings: Path | None,
    item_names: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the bundle of a training RUN, and its metrics on the test users; or the graph of a BUNDLE.

    With --text-embeddings it can take new items; with --pretrained, too, pseudo items are experts of its mix.
    """
    from llmcdsr_lite.bundle.folder import CONFIG
    from llmcdsr_tools.export import bundle_export
    from llmcdsr_tools.export.standalone import check_output, export_standalone

    if standalone is not None:
        check_output(standalone, overwrite=overwrite)
    if (source / CONFIG).exists():
        if standalone is None:
            raise click.UsageError(f"{source} is a bundle already; name its graph: --standalone FILE")
        _refuse_options_of_runs(source)
        export_standalone(source, standalone, overwrite=overwrite)
        return
    if not source.exists() and (output or standalone):
        raise DataError(f"{source}: no such folder, expected a training run or a bundle")
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output', which a run needs.")
    measured = bundle_export.export(
        source,
        output,
        dataset=dataset,
        best_for=best_for,
        seed=seed,
        overwrite=overwrite,
        pretrained=pretrained,
        text_embeddings=text_embeddings,
        item_names=item_names,
    )
    if standalone is not None:
        export_standalone(output, standalone, overwrite=overwrite)
    print_measured(measured, ("model",), as_json)
    if measured.positions == "every":  # the split is by time
        again = f"llmcdsr refit {output} {source} -o BUNDLE"
        click.echo(f"note: the newest interactions were held out; to train on them, too: {again}", err=True)


def _refuse_options_of_runs(bundle: Path) -> None:
    """Refuse options of `export` that do nothing where a bundle is given."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
        if given and parameter.name not in ("source", "standalone", "overwrite"):
            raise click.UsageError(f"{parameter.opts[-1]} is for a run; {bundle} is a bundle")
