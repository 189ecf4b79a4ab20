"""What was generated and what is recalled for it, in numbers and in examples that a person can judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.recall_network import pool, project, unit_rows
from llmcdsr_lite.recall import recall
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.embed_names import EmbeddedNames
from llmcdsr_tools.names import GeneratedNames
from llmcdsr_tools.pretrain.pretraining import Pretrained

N_RECALLED = 5


@dataclass(frozen=True)
class Yield:
    """What a generator gave for one domain.

    Parameters
    ----------
    domain : str
        That the names are of.
    generators : tuple of str
        What wrote them.
    n_users : int
        Single-domain train users without history in it.
    n_with_names : int
        Those of them that have names.
    n_names, n_distinct : int
        Names of these users, and how many different ones.
    n_titles : int
        Distinct names that are a title of the domain, word for word.
    """

    domain: str
    generators: tuple[str, ...]
    n_users: int
    n_with_names: int
    n_names: int
    n_distinct: int
    n_titles: int


@dataclass(frozen=True)
class Example:
    """One user's way from history to pseudo items.

    Parameters
    ----------
    user : str
    history : tuple of str
        Titles, oldest first.
    domain : str
        That the names are of.
    names : tuple of (str, float)
        With their weight in the pooling.
    recalled : tuple of (str, float)
        Titles of the first pseudo items, with their cosine.
    """

    user: str
    history: tuple[str, ...]
    domain: str
    names: tuple[tuple[str, float], ...]
    recalled: tuple[tuple[str, float], ...]


def generation_yield(data: Dataset, names: Sequence[GeneratedNames]) -> list[Yield]:
    """Count the names of each domain."""
    lacks = ~data.train.has_domains(data.catalogue)  # (users, domains)
    results = []
    for index, domain in enumerate(data.catalogue.domains):
        own = [record for record in names if record.domain == domain.name]
        distinct = {name for record in own for name in record.names}
        titles = set(data.catalogue.titles[domain.start - 1 : domain.stop - 1])
        results.append(
            Yield(
                domain.name,
                tuple(sorted({record.generator for record in own})),
                int((lacks[:, index] & (data.train.lengths > 0)).sum()),
                len(own),
                sum(len(record.names) for record in own),
                len(distinct),
                len(distinct & titles),
            )
        )
    return results


def recall_examples(
    data: Dataset,
    names: Sequence[GeneratedNames],
    embedded: EmbeddedNames,
    pretrained: Pretrained,
    poolers: npt.NDArray[np.floating[Any]],
    *,
    n_each: int = 4,
    seed: int = 0,
) -> list[Example]:
    """Users drawn at random for each domain, with their names and what these recall.

    Parameters
    ----------
    data : Dataset
    names : sequence of GeneratedNames
    embedded : EmbeddedNames
        The same names, embedded.
    pretrained : Pretrained
    poolers : float array (domains, H)
        Zeros give every name the same weight.
    n_each : int
        Users a domain.
    seed : int
    """
    texts = {(record.user, record.domain): record.names for record in names}
    examples = []
    for index, domain in enumerate(data.catalogue.domains):
        entries = np.flatnonzero(embedded.domains == index)
        drawn = np.random.default_rng([seed, index]).permutation(entries)[:n_each]
        unit_items = unit_rows(pretrained.items[index])
        for entry in np.sort(drawn).tolist():
            row = int(embedded.users[entry])
            user = data.train.users[row]
            projected = project(embedded.names_of(entry), pretrained.projections[index])
            pooled, cache = pool(projected, np.array([0, len(projected)]), poolers[index])
            places, similarities = recall(pooled, unit_items, N_RECALLED)
            titles = [data.catalogue.titles[domain.start - 1 + p] for p in places[0].tolist()]
            examples.append(
                Example(
                    user,
                    tuple(data.catalogue.titles[r - 1] for r in data.train[row].tolist()),
                    domain.name,
                    tuple(zip(texts[user, domain.name], cache.weights.tolist(), strict=True)),
                    tuple(zip(titles, similarities[0].tolist(), strict=True)),
                )
            )
    return examples
