"""Commands of the console command ``llmcdsr`` for title embeddings and generated names."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from llmcdsr_lite.cli import FilePath, cli, example, json_option
from llmcdsr_tools.cli.options import needs_train_extra, overwrite_option

titles_option = click.option(
    "--titles",
    type=FilePath,
    help=".npy matrix of `llmcdsr embed`: names that are titles are looked up in it.",
)
encoder_option = click.option(
    "--encoder", type=FilePath, help="Encoder folder, for names that are no titles."
)
encoder_threads_option = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the encoder."
)
n_neighbors_option = click.option(
    "--neighbors",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Overlapped users compared to.",
)


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("--encoder", required=True, type=FilePath, help="Encoder folder.")
@click.option("-o", "--output", required=True, type=FilePath, help=".npy matrix to write.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Titles at once.")
@click.option("--prompt", help="Name of the encoder's prompt to put before every title.")
@click.option("--max-length", type=click.IntRange(1), help="Cut titles to so many tokens.")
@encoder_threads_option
@overwrite_option
@example("llmcdsr embed dataset --encoder minilm -o titles.npy")
@needs_train_extra
def embed(
    dataset: Path,
    encoder: Path,
    output: Path,
    batch_size: int,
    prompt: str | None,
    max_length: int | None,
    threads: int,
    overwrite: bool,
) -> None:
    """Turn the titles of DATASET into a matrix of text embeddings.

    An interrupted call goes on where it was when it is given again.
    """
    from llmcdsr_tools import embed as stage

    with counter("titles") as progress:
        result = stage.embed(
            dataset,
            encoder,
            output,
            threads=threads,
            batch_size=batch_size,
            prompt=prompt,
            max_length=max_length,
            overwrite=overwrite,
            progress=progress,
        )
    for warning in result.warnings:
        click.echo(f"note: {warning}", err=True)
    resumed = f", {result.n_resumed:,} of them by an earlier call" if result.n_resumed else ""
    click.echo(
        f"{result.n_items:,} titles embedded with {result.dimension} values each{resumed}; "
        f"{result.n_untitled:,} items have no title"
    )


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Names file (JSON Lines) to write.")
@n_neighbors_option
@click.option("--names", "n_names", type=click.IntRange(1), default=10, show_default=True, help="A user.")
@example("llmcdsr neighbours dataset -o names.jsonl")
@needs_train_extra
def neighbours(dataset: Path, output: Path, neighbors: int, n_names: int) -> None:
    """Write names for the single-domain users of DATASET without a language model.

    They are the titles that the most similar users with both domains have in the other domain: a
    baseline, and what works offline.
    """
    from llmcdsr_tools import neighbours as stage

    with counter("users") as progress:
        result = stage.neighbours(dataset, output, n_neighbors=neighbors, n_names=n_names, progress=progress)
    click.echo(
        f"{result.n_names:,} names for {result.n_users:,} users; {result.n_without:,} users share no item "
        "with anybody who has both domains, and have none"
    )


@cli.command("embed-names")
@click.argument("names", type=FilePath)
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help=".npz file to write.")
@titles_option
@encoder_option
@encoder_threads_option
@example("llmcdsr embed-names names.jsonl dataset --titles titles.npy --encoder minilm -o names.npz")
@needs_train_extra
def embed_names(
    names: Path, dataset: Path, output: Path, titles: Path | None, encoder: Path | None, threads: int
) -> None:
    """Turn the names file NAMES of the users of DATASET into text embeddings."""
    from llmcdsr_tools import embed_names as stage

    with counter("names") as progress:
        result = stage.embed_names(
            names, dataset, output, encoder=encoder, titles=titles, threads=threads, progress=progress
        )
    click.echo(
        f"{result.n_names:,} names of {result.n_users:,} users embedded, {result.n_distinct:,} distinct, "
        f"{result.n_encoded:,} of them no titles"
    )


def show_prompts(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Print the shipped prompts and end."""
    if wanted:
        from llmcdsr_tools.generate.prompt_templates import shipped_templates

        click.echo(shipped_templates(), nl=False)
        context.exit()


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Names file (JSON Lines) to write.")
@click.option("--base-url", metavar="URL", help="Of the server; nothing is sent anywhere else.")
@click.option("--model", required=True, help="Name of the model at the server.")
@click.option(
    "--endpoint",
    type=click.Choice(["chat", "completion"]),
    default="chat",
    show_default=True,
    help="completion is for base models, which only continue a text.",
)
@click.option(
    "--output-format",
    type=click.Choice(["auto", "json", "list"]),
    default="auto",
    show_default=True,
    help="auto: JSON by a schema where the server takes one, otherwise a numbered list.",
)
@click.option("--api-key-env", metavar="VARIABLE", help="Environment variable with the key; none by default.")
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
@click.option("--examples", type=click.IntRange(0), default=3, show_default=True, help="In a prompt.")
@click.option("--names", "n_names", type=click.IntRange(3), default=10, show_default=True, help="A user.")
@click.option(
    "--history-titles", type=click.IntRange(1), default=10, show_default=True, help="Shown, newest."
)
@click.option("--title-tokens", type=click.IntRange(1), default=24, show_default=True, help="Of a title.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=2000, show_default=True, help="At most.")
@click.option("--max-tokens", type=click.IntRange(1), default=500, show_default=True, help="Of an answer.")
@click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True)
@click.option(
    "--frequency-penalty",
    type=click.FloatRange(-2, 2),
    default=0.0,
    help="For models that repeat themselves.",
)
@click.option(
    "--concurrency", type=click.IntRange(1), default=4, show_default=True, help="Requests at a time."
)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True)
@click.option("--retries", type=click.IntRange(0), default=6, show_default=True, help="Of a failed request.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of examples and order.")
@click.option("--dry-run", is_flag=True, help="Send nothing: print example prompts, and what it would take.")
@click.option("--price-in", type=click.FloatRange(0), help="Of a million tokens, for --dry-run.")
@click.option("--price-out", type=click.FloatRange(0), help="Of a million tokens, for --dry-run.")
@json_option
@example(
    "llmcdsr generate dataset --base-url http://127.0.0.1:8000/v1 --model gemma -o names.jsonl --dry-run"
)
@needs_train_extra
def generate(
    dataset: Path,
    output: Path,
    base_url: str | None,
    model: str,
    endpoint: Literal["chat", "completion"],
    output_format: Literal["auto", "json", "list"],
    api_key_env: str | None,
    answers: Path | None,
    prompts: Path | None,
    split: Literal["train", "valid", "test"],
    users: Path | None,
    limit: int | None,
    examples: int,
    n_names: int,
    history_titles: int,
    title_tokens: int,
    prompt_tokens: int,
    max_tokens: int,
    temperature: float,
    frequency_penalty: float,
    concurrency: int,
    timeout: float,
    retries: int,
    seed: int,
    dry_run: bool,
    price_in: float | None,
    price_out: float | None,
    as_json: bool,
) -> None:
    """Have a language model write names for the single-domain users of DATASET.

    The model is behind any server that speaks the OpenAI protocol. Every answer is kept as it comes: the
    same command, given again, asks only for users without one.
    """
    from llmcdsr_tools.generate import stage
    from llmcdsr_tools.generate.language_model import ServerSettings
    from llmcdsr_tools.generate.outcome import format_yield
    from llmcdsr_tools.generate.plan import format_plan, plan_generation
    from llmcdsr_tools.generate.prompts import PromptSettings

    if base_url is None and not dry_run:
        raise click.UsageError("name the server: --base-url, or look first: --dry-run")
    server = ServerSettings(
        base_url or "",
        model,
        endpoint,
        api_key_env,
        temperature,
        frequency_penalty,
        max_tokens,
        timeout,
        retries,
    )
    prompt = PromptSettings(examples, n_names, history_titles, title_tokens, prompt_tokens, seed)
    settings = stage.GenerateSettings(prompt, output_format, concurrency)
    chosen = None if users is None else read_user_ids(users)
    if dry_run:
        plan = plan_generation(
            dataset,
            server,
            settings,
            prompts=prompts,
            split=split,
            users=chosen,
            limit=limit,
            price_in=price_in,
            price_out=price_out,
        )
        click.echo(json.dumps(asdict(plan), ensure_ascii=False) if as_json else format_plan(plan))
        return
    try:
        with counter("users") as progress:
            result = stage.generate(
                dataset,
                output,
                server,
                settings,
                answers=answers,
                prompts=prompts,
                split=split,
                users=chosen,
                limit=limit,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo("stopped; what was answered is kept, the same command goes on", err=True)
        raise
    if as_json:
        click.echo(json.dumps({**asdict(result), "output": str(output), "answers": str(result.answers)}))
    else:
        click.echo(format_yield(result.parsed))
        if result.n_resumed:
            click.echo(f"{result.n_resumed:,} users had been answered by an earlier call")
        if result.retried:
            tries = ", ".join(f"{n:,} after {what}" for what, n in sorted(result.retried.items()))
            click.echo(f"tried again: {tries}")
    if result.failures:
        first = result.failures[0]
        raise click.ClickException(
            f"{len(result.failures)} of {result.n_wanted} users have no answer; the same command asks for "
            f"them again. The first, {first.user!r}: {first.reason}"
        )


@cli.command("evaluate-generator")
@click.argument("dataset", type=FilePath)
@click.option("--titles", required=True, type=FilePath, help=".npy matrix of `llmcdsr embed`.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
@click.option("--names", type=FilePath, help="Names file of `generate --split`, measured beside the others.")
@encoder_option
@n_neighbors_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random items.")
@encoder_threads_option
@json_option
@example("llmcdsr evaluate-generator dataset --titles titles.npy")
@needs_train_extra
def evaluate_generator(
    dataset: Path,
    titles: Path,
    split: Literal["valid", "test"],
    names: Path | None,
    encoder: Path | None,
    neighbors: int,
    seed: int,
    threads: int,
    as_json: bool,
) -> None:
    """Measure how much of a hidden domain the names of a generator recall.

    Compared on held-out users of DATASET with one domain hidden: random items, popular ones, the items
    most similar to the user's own titles, the names of `neighbours` and, if given, those of a file.
    """
    from llmcdsr_tools import evaluate_generator as stage

    results = stage.evaluate_generator(
        dataset,
        titles,
        split=split,
        names=names,
        encoder=encoder,
        n_neighbors=neighbors,
        seed=seed,
        threads=threads,
    )
    if as_json:
        click.echo(json.dumps([without_nan(asdict(result)) for result in results], ensure_ascii=False))
    else:
        click.echo(stage.format_generator_results(results))


def read_user_ids(path: Path) -> list[str]:
    """User ids, one a line; blank lines are passed over."""
    with click.open_file(str(path), encoding="utf-8") as file:
        return [line.rstrip("\r\n") for line in file if line.strip()]


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no nan, which a measure of no users is."""
    return {name: None if value != value else value for name, value in values.items()}


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A line on a terminal that counts up; nothing where stderr is none."""
    if not sys.stderr.isatty():
        yield None
        return
    start = time.perf_counter()

    def show(done: int, n: int) -> None:
        seconds = time.perf_counter() - start
        click.echo(f"\r{done:,} of {n:,} {what}, {seconds:,.0f} s ", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo(err=True)
