"""The command ``llmcdsr generate``: names from a language model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from llmcdsr_lite.cli.commands import FilePath, cli, example, json_option
from llmcdsr_lite.errors import DataError, GenerationError
from llmcdsr_tools.cli.options import (
    Number,
    needs_train_extra,
    overwrite_option,
    settings_of,
    settings_options,
)
from llmcdsr_tools.generate.generate_settings import GenerateSettings, PromptSettings, ServerSettings
from llmcdsr_tools.pipeline.progress import counter

if TYPE_CHECKING:
    from llmcdsr_tools.generate.generation import GenerateResult


def show_prompts(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Print the shipped prompts and end."""
    if wanted:
        from llmcdsr_tools.generate.prompt_templates import shipped_templates

        click.echo(shipped_templates(), nl=False)
        context.exit()


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Names file (JSON Lines) to write.")
@click.option("--base-url", metavar="URL", default="", help="Of the server; nothing is sent anywhere else.")
@click.option("--model", required=True, help="Name of the model at the server.")
@settings_options(ServerSettings, without=("base_url", "model"))
@settings_options(GenerateSettings)
@click.option("--answers", type=FilePath, help="File of the raw answers; OUTPUT.answers by default.")
@click.option("--prompts", type=FilePath, help="TOML file in place of the shipped prompts.")
@click.option(
    "--show-prompts", is_flag=True, is_eager=True, expose_value=False, callback=show_prompts,
    help="Print the shipped prompts, to start a file from, and end.",
)  # fmt: skip
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test"]),
    default="train",
    show_default=True,
    help="Single-domain train users, or held-out users with one domain hidden.",
)
@click.option("--users", type=FilePath, help="Ask for these alone: a file, one user id a line ('-': stdin).")
@click.option("--limit", type=click.IntRange(0), help="Ask for so many users, drawn by seed.")
@settings_options(PromptSettings)
@click.option(
    "--for",
    "whom",
    type=click.Choice(["users", "items"]),
    default="users",
    show_default=True,
    help="items: one question an item, those with the same words in their titles sharing one.",
)
@click.option("--dry-run", is_flag=True, help="Send nothing: print example prompts, and what it would take.")
@click.option("--price-in", type=Number(0), help="Of a million tokens, for --dry-run.")
@click.option("--price-out", type=Number(0), help="Of a million tokens, for --dry-run.")
@overwrite_option
@json_option
@example(
    "llmcdsr generate dataset --base-url http://127.0.0.1:8000/v1 --model gemma -o names.jsonl --dry-run"
)
@needs_train_extra
def generate(
    dataset: Path,
    output: Path,
    answers: Path | None,
    prompts: Path | None,
    split: Literal["train", "valid", "test"],
    whom: Literal["users", "items"],
    users: Path | None,
    limit: int | None,
    dry_run: bool,
    price_in: float | None,
    price_out: float | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Have a language model write names for users of DATASET who lack a domain, or for its items.

    The model is behind any server that speaks the OpenAI protocol. Every answer is kept as it comes: the
    same command, given again, asks only for users without one.
    """
    from llmcdsr_tools.generate import generation
    from llmcdsr_tools.generate.plan import format_plan, plan_generation

    if not (options["base_url"] or dry_run):
        raise click.UsageError("name the server: --base-url, or look first: --dry-run")
    server = settings_of(ServerSettings, options)
    settings = settings_of(GenerateSettings, {**options, "prompt": settings_of(PromptSettings, options)})
    chosen = None if users is None else read_user_ids(users)
    if whom == "items" and split != "train":
        raise click.UsageError("--split is for users: items are asked for whatever the split")
    asked = "items" if whom == "items" else split
    wanted: dict[str, Any] = {"prompts": prompts, "split": asked, "users": chosen, "limit": limit}
    if dry_run:
        plan = plan_generation(dataset, server, settings, **wanted, price_in=price_in, price_out=price_out)
        click.echo(json.dumps(asdict(plan), ensure_ascii=False) if as_json else format_plan(plan))
        return
    try:
        with counter(whom) as progress:
            result = generation.generate(
                dataset,
                output,
                server,
                settings,
                answers=answers,
                **wanted,
                overwrite=overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo("stopped; what was answered is kept, the same command goes on", err=True)
        raise
    tell(result, as_json)


def tell(result: GenerateResult, as_json: bool) -> None:
    """Print what became of the answers; users without one are an error."""
    from llmcdsr_tools.generate.outcome import format_yield

    if as_json:
        paths = {"output": str(result.output), "answers": str(result.answers)}
        click.echo(json.dumps({**asdict(result), **paths}))
    else:
        click.echo(format_yield(result.parsed))
        if result.n_resumed:
            click.echo(f"{result.n_resumed:,} users had been answered by an earlier call")
        if result.retried:
            tries = ", ".join(f"{n:,} after {what}" for what, n in sorted(result.retried.items()))
            click.echo(f"tried again: {tries}")
    if result.failures:
        first = result.failures[0]
        raise GenerationError(
            f"{len(result.failures)} of {result.n_wanted} users have no answer; the same command asks for "
            f"them again. The first, {first.user!r}: {first.reason}"
        )


def read_user_ids(path: Path) -> list[str]:
    """User ids, one a line; blank lines are passed over. The path "-" is standard input.

    Raises
    ------
    DataError
        If the file cannot be read or is not UTF-8.
    """
    try:
        with click.open_file(str(path), "rb") as file:
            lines = file.read().decode("utf-8").replace("\r\n", "\n").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8, expected one user id a line") from None
    return [line for line in lines if line.strip()]
