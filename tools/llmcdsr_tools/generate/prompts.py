"""Prompts: an instruction for the direction, examples of overlapped users, and the user's own titles.

The words are in ``prompts.toml``, of which a user may give another. A prompt depends on the settings and
the user alone: neither on who was asked before, nor on how many are.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import UsageError
from llmcdsr_tools.cold_histories import ColdHistory
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.generate.generate_settings import Endpoint, OutputFormat, PromptSettings
from llmcdsr_tools.generate.prompt_templates import PromptTemplates, Words

_MIN_TITLES, _MIN_TITLE_TOKENS = 3, 6  # a prompt that is too long is not shortened beyond
_TOKEN = re.compile(r"[A-Za-z]{1,5}|[^A-Za-z ]")
_MIN_EXAMPLE_NAMES = 3  # fewer would teach the model to answer with so few


@dataclass(frozen=True)
class Prompt:
    """One request.

    Parameters
    ----------
    system : str or None
        None for the completion endpoint.
    text : str
        The user's message, or the text to go on with.
    history : tuple of str
        The user's titles as they are shown, oldest first.
    examples : tuple of str
        All titles of the examples as they are shown.
    n_tokens : int
        Estimated.
    """

    system: str | None
    text: str
    history: tuple[str, ...]
    examples: tuple[str, ...]
    n_tokens: int


class PromptBuilder:
    """Makes prompts of one data set.

    Raises
    ------
    UsageError
        If a setting cannot be meant, or the data set has too few overlapped users for the examples.
    """

    def __init__(
        self, dataset: Dataset, templates: PromptTemplates, settings: PromptSettings, endpoint: Endpoint
    ) -> None:
        self.settings, self.templates, self.endpoint = settings, templates, endpoint
        self._dataset = dataset
        self._names = tuple(domain.name for domain in dataset.catalogue.domains)
        if len(self._names) < 2:
            raise UsageError("names are of a domain that a user lacks, but the data set has one domain alone")
        unknown = templates.domains - set(self._names)
        if unknown:
            raise UsageError(
                f"prompts: there are words for {min(unknown)!r}, which is no domain; there are "
                f"{', '.join(map(repr, self._names))}"
            )
        if set(self._names) == {"A", "B"}:  # what the official layout has for want of names
            raise UsageError(
                "the domains are named 'A' and 'B', which tells a language model nothing: ingest the data "
                "set again with their names, such as --domain groceries --domain kitchenware"
            )
        # train users, by the domain of the names
        self._overlapped = tuple(self._example_users(domain) for domain in range(len(self._names)))

    def words(self, domain: int) -> Words:
        """Templates for names of a domain."""
        return self.templates.of(self.endpoint, self._names[domain])

    def others(self, domain: int) -> list[int]:
        """All domains but one."""
        return [other for other in range(len(self._names)) if other != domain]

    def titles(self, rows: npt.NDArray[np.integer[Any]], domains: Sequence[int]) -> list[str]:
        """Titles of a history's items of some domains, each once, where it was last; none that is empty."""
        catalogue = self._dataset.catalogue
        wanted = rows[np.isin(catalogue.domain_indices(rows), domains)]
        titles = [catalogue.titles[row - 1] for row in wanted.tolist()]
        return list(dict.fromkeys(t for t in reversed(titles) if t.strip()))[::-1]

    def build(self, history: ColdHistory, output_format: OutputFormat = "list") -> Prompt:
        """The prompt for a user.

        Raises
        ------
        UsageError
            If it cannot be made short enough.
        """
        examples = self._draw_examples(history)
        settings = self.settings
        n_titles, title_tokens, n_names = settings.n_titles, settings.title_tokens, settings.n_names
        while True:
            prompt = self._render(history, examples, n_titles, title_tokens, n_names, output_format)
            if prompt.n_tokens <= settings.prompt_tokens:
                return prompt
            if n_titles > _MIN_TITLES:
                n_titles -= 1
            elif title_tokens > _MIN_TITLE_TOKENS:
                title_tokens -= 1
            elif n_names > _MIN_EXAMPLE_NAMES:
                n_names -= 1
            else:
                raise UsageError(
                    f"prompt_tokens is {settings.prompt_tokens}, but the prompt for user {history.user!r} "
                    f"has {prompt.n_tokens} with {_MIN_TITLES} titles of {_MIN_TITLE_TOKENS} tokens; "
                    "allow more, or fewer examples"
                )

    def _render(
        self,
        history: ColdHistory,
        examples: Sequence[npt.NDArray[np.integer[Any]]],
        n_titles: int,
        title_tokens: int,
        n_example_names: int,
        output_format: OutputFormat,
    ) -> Prompt:
        def shown(rows: npt.NDArray[np.integer[Any]], domains: Sequence[int], most: int) -> list[str]:
            # half a character cannot be sent
            titles = [t.encode("utf-8", "replace").decode() for t in self.titles(rows, domains)[-most:]]
            return [shorten(html.unescape(title), title_tokens) for title in titles]

        source = self.others(history.domain)
        words = self.words(history.domain)
        common = {
            "source": " and ".join(self._names[domain] for domain in source),
            "target": self._names[history.domain],
            "n_names": str(self.settings.n_names),
        }
        parts, of_examples = [], []
        for number, rows in enumerate(examples, 1):
            given = shown(rows, source, n_titles)
            wanted = shown(rows, [history.domain], n_example_names)
            of_examples += [*given, *wanted]
            filled = {
                "number": str(number),
                "history": bulleted(given),
                "names": _as_answer(wanted, output_format),
            }
            parts.append(Template(words.example).substitute(common, **filled))
        own = shown(history.rows, source, n_titles)
        body = Template(words.body).substitute(
            common,
            examples="".join(parts),
            history=bulleted(own),
            answer_format=self.templates.answer_format[output_format],
        )
        system = None
        if words.system is not None:
            system = Template(words.system).substitute(common)
        text = body + words.answer_start
        n_tokens = estimate_tokens(text) + estimate_tokens(system or "")
        return Prompt(system, text, tuple(own), tuple(of_examples), n_tokens)

    def _draw_examples(self, history: ColdHistory) -> list[npt.NDArray[np.int32]]:
        """Histories of overlapped train users, the same for the same seed and user, never the user's own."""
        train = self._dataset.train
        if self.settings.n_examples == 0:
            return []
        candidates = self._overlapped[history.domain]
        rng = np.random.default_rng(user_seed(self.settings.seed, history))
        drawn = rng.choice(candidates, self.settings.n_examples + 1, replace=False).tolist()
        others = [user for user in drawn if train.users[user] != history.user]
        return [train[user] for user in others[: self.settings.n_examples]]

    def _example_users(self, domain: int) -> npt.NDArray[np.int64]:
        """Overlapped train users with a title in other domains, and in that of the names many, or three."""
        data, settings = self._dataset, self.settings
        both = data.train.overlapped(data.catalogue)
        histories = [data.train[user] for user in both.tolist()]
        n_names = np.array([len(self.titles(rows, [domain])) for rows in histories], dtype=np.int64)
        n_given = np.array(
            [len(self.titles(rows, self.others(domain))) for rows in histories], dtype=np.int64
        )
        for least in (settings.n_names // 2, _MIN_EXAMPLE_NAMES):
            fitting = both[(n_names >= max(least, _MIN_EXAMPLE_NAMES)) & (n_given >= 1)]
            if len(fitting) > settings.n_examples:  # the user itself is no example
                return fitting
        if settings.n_examples == 0:
            return both[:0]
        raise UsageError(
            f"{settings.n_examples} examples need {settings.n_examples + 1} overlapped train users with "
            f"a title in other domains and {_MIN_EXAMPLE_NAMES} in {self._names[domain]!r}; there are "
            f"{len(fitting)}"
        )


def user_seed(seed: int, history: ColdHistory) -> int:
    """A number of 32 bits for one user and domain, whatever the order of users."""
    digest = hashlib.sha256(f"{seed}\0{history.domain}\0{history.user}".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:4], "big")


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: a guess that suits most tokenizers, rather too many than too few.

    A word is a token for every 5 letters begun; every digit, sign and character beyond ASCII is one.
    """
    return len(_TOKEN.findall(text))


@lru_cache(maxsize=1 << 16)  # the titles of examples come again and again
def shorten(title: str, tokens: int) -> str:
    """The first words of a title that have at most so many tokens, white space made single."""
    words = title.split()
    kept: list[str] = []
    for word in words:
        if kept and estimate_tokens(" ".join([*kept, word])) > tokens:
            break
        kept.append(word)
    text = " ".join(kept)
    while estimate_tokens(text) > tokens:  # one long word
        text = text[: -max(1, len(text) // 8)]
    return text if len(kept) == len(words) else text.rstrip(" ,;:-(&/")


def bulleted(titles: Sequence[str]) -> str:
    """One title a line, with a hyphen before it."""
    return "\n".join(f"- {title}" for title in titles)


def _as_answer(titles: Sequence[str], output_format: OutputFormat) -> str:
    """Titles in the form that is asked for."""
    if output_format == "json":
        return json.dumps({"names": list(titles)}, ensure_ascii=False)
    return "\n".join(f"{number}. {title}" for number, title in enumerate(titles, 1))
