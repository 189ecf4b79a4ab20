"""What a call of `generate` would send and cost, without sending anything."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from llmcdsr_tools.cold_histories import Whom
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.generate.generate_settings import GenerateSettings, OutputFormat, ServerSettings
from llmcdsr_tools.generate.generation import select
from llmcdsr_tools.generate.prompt_templates import load_templates
from llmcdsr_tools.generate.prompts import Prompt, estimate_tokens

_SAMPLE = 500  # prompts that the number of tokens is estimated from


@dataclass(frozen=True)
class GenerationPlan:
    """What would be sent.

    Parameters
    ----------
    n_requests : int
        One a user or item; before any is tried again.
    n_without_title : int
        Users not asked for: their history has no title.
    tokens_in, tokens_out : int
        Estimated; the latter if every answer has as many names as are asked for.
    cost : float or None
        In the currency of the prices, if both are given.
    examples : tuple of Prompt
        One for each direction that occurs.
    """

    n_requests: int
    n_without_title: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    examples: tuple[Prompt, ...]


def plan_generation(
    dataset: Path | Dataset,
    server: ServerSettings,
    settings: GenerateSettings | None = None,
    *,
    prompts: Path | None = None,
    split: Whom = "train",
    users: Collection[str] | None = None,
    limit: int | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
) -> GenerationPlan:
    """Count requests and tokens; the parameters are those of `generate`, prices are for a million tokens."""
    settings = settings or GenerateSettings()
    wanted = select(dataset, server, settings, load_templates(prompts), split=split, users=users, limit=limit)
    as_list = server.endpoint == "completion" or settings.output_format == "list"
    output_format: OutputFormat = "list" if as_list else "json"
    sample = wanted.histories[:_SAMPLE]
    built = [wanted.builder.build(history, output_format) for history in sample]
    examples = {history.domain: prompt for history, prompt in zip(sample[::-1], built[::-1], strict=True)}
    shown = [title for prompt in built for title in prompt.examples or prompt.history]
    title = sum(estimate_tokens(text) + 3 for text in shown) / max(1, len(shown))  # a number and a line end
    n = len(wanted.histories)
    tokens_in = round(n * sum(prompt.n_tokens for prompt in built) / max(1, len(built)))
    tokens_out = round(n * min(server.max_tokens, settings.prompt.n_names * title))
    cost = None
    if price_in is not None and price_out is not None:
        cost = (tokens_in * price_in + tokens_out * price_out) / 1e6
    ordered = tuple(examples[domain] for domain in sorted(examples))
    return GenerationPlan(n, wanted.n_without_title, tokens_in, tokens_out, cost, ordered)


def format_plan(plan: GenerationPlan) -> str:
    """Readable account, the example prompts first."""
    parts = []
    for number, prompt in enumerate(plan.examples, 1):
        system = "" if prompt.system is None else f"[system]\n{prompt.system}\n[user]\n"
        head = f"--- example prompt {number}, about {prompt.n_tokens:,} tokens ---"
        parts.append(f"{head}\n{system}{prompt.text}\n")
    left_out = f" ({plan.n_without_title:,} users without a title left out)" if plan.n_without_title else ""
    parts.append(
        f"--- {plan.n_requests:,} requests{left_out} ---\n"
        f"about {plan.tokens_in:,} tokens in, {plan.tokens_out:,} out"
    )
    if plan.cost is not None:
        parts.append(f"about {plan.cost:,.2f} at the given prices")
    return "\n".join(parts)
