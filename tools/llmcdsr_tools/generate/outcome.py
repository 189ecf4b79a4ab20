"""The last pass of `generate`: answers to a names file, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcdsr_tools.cold_histories import ColdHistory, Whom, cold_histories
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.generate.answers import Answer
from llmcdsr_tools.generate.name_parsing import ParsedAnswer, parse_answer
from llmcdsr_tools.generate.prompts import PromptBuilder
from llmcdsr_tools.names import GeneratedNames, write_names


@dataclass(frozen=True)
class GenerationYield:
    """What became of the answers of a run.

    Parameters
    ----------
    n_answers, n_kept : int
        Answers, and those that gave a line of the names file.
    n_empty, n_no_list, n_too_few : int
        Answers dropped: nothing in it, no list in it, two names or fewer left.
    n_cut_off : int
        Answers that ended because they became too long; kept, but for their last name.
    n_names_found, n_names_kept : int
        Names in all answers, and those in the names file.
    n_unusable, n_from_examples, n_from_history, n_duplicates, n_surplus : int
        Names dropped, by reason.
    tokens_in, tokens_out : int
        As the server counts them.
    seconds : float
        Of all requests that were answered.
    """

    n_answers: int
    n_kept: int
    n_empty: int
    n_no_list: int
    n_too_few: int
    n_cut_off: int
    n_names_found: int
    n_names_kept: int
    n_unusable: int
    n_from_examples: int
    n_from_history: int
    n_duplicates: int
    n_surplus: int
    tokens_in: int
    tokens_out: int
    seconds: float

    @property
    def kept_share(self) -> float:
        """Share of answers kept, 0 if there are none."""
        return self.n_kept / max(1, self.n_answers)


def write_parsed(
    output: Path,
    answers: Sequence[Answer],
    builder: PromptBuilder,
    dataset: Dataset,
    split: Whom,
    generator: str,
) -> GenerationYield:
    """Write the names file of all answers, in the order of the split."""
    of_key = {(answer.user, answer.domain): answer for answer in answers}
    domains = dataset.catalogue.domains
    parsed: list[tuple[Answer, ParsedAnswer]] = []
    records = []
    for history in cold_histories(dataset, split):
        domain = domains[history.domain].name
        answer = of_key.get((history.user, domain))
        if answer is None:
            continue
        found = parse(answer, history, builder)
        parsed.append((answer, found))
        if found.names:
            records.append(GeneratedNames(history.user, domain, found.names, generator))
    write_names(output, records)
    return _count(parsed)


def parse(answer: Answer, history: ColdHistory, builder: PromptBuilder) -> ParsedAnswer:
    """Names of an answer, without those that its prompt had."""
    prompt = builder.build(history, "json" if answer.output_format == "json" else "list")
    start = builder.words(history.domain).answer_start
    text = f"{start} {answer.answer}" if start and answer.answer.strip() else answer.answer
    whole = builder.titles(history.rows, builder.others(history.domain))
    return parse_answer(
        text,
        history=[*whole, *prompt.history],
        examples=prompt.examples,
        cut_off=answer.cut_off,
        most=builder.settings.n_names,
    )


def format_yield(y: GenerationYield) -> str:
    """Readable account."""

    def counts(*pairs: tuple[int, str]) -> str:
        return ", ".join(f"{n:,} {what}" for n, what in pairs if n) or "none"

    dropped = counts(
        (y.n_too_few, "with two names or fewer"), (y.n_no_list, "without a list"), (y.n_empty, "empty")
    )
    names = counts(
        (y.n_from_examples, "copied from the examples"),
        (y.n_from_history, "from the user's own history"),
        (y.n_duplicates, "duplicates"),
        (y.n_surplus, "more than asked for"),
        (y.n_unusable, "unusable"),
    )
    per_answer = y.seconds / max(1, y.n_answers)
    return (
        f"{y.n_kept:,} of {y.n_answers:,} answers kept ({y.kept_share:.1%}); dropped: {dropped}\n"
        f"{y.n_names_kept:,} of {y.n_names_found:,} names kept; dropped one by one: {names}\n"
        f"{y.n_cut_off:,} answers cut off; {y.tokens_in:,} tokens in, {y.tokens_out:,} out, "
        f"{per_answer:.2f} s a request"
    )


def _count(parsed: Sequence[tuple[Answer, ParsedAnswer]]) -> GenerationYield:
    answers, found = [a for a, _ in parsed], [p for _, p in parsed]
    return GenerationYield(
        n_answers=len(parsed),
        n_kept=sum(p.dropped is None for p in found),
        n_empty=sum(p.dropped == "empty" for p in found),
        n_no_list=sum(p.dropped == "no list" for p in found),
        n_too_few=sum(p.dropped == "too few names" for p in found),
        n_cut_off=sum(a.cut_off for a in answers),
        n_names_found=sum(p.n_found for p in found),
        n_names_kept=sum(len(p.names) for p in found),
        n_unusable=sum(p.n_unusable for p in found),
        n_from_examples=sum(p.n_from_examples for p in found),
        n_from_history=sum(p.n_from_history for p in found),
        n_duplicates=sum(p.n_duplicates for p in found),
        n_surplus=sum(p.n_surplus for p in found),
        tokens_in=sum(a.tokens_in or 0 for a in answers),
        tokens_out=sum(a.tokens_out or 0 for a in answers),
        seconds=sum(a.seconds for a in answers),
    )
