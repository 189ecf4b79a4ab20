"""How much of a hidden domain the names of a generator recall.

Of held-out users with items of several domains one is hidden, the generator sees the rest (never the
held-out last item), and its names are looked up: for each of the first ten names, the ten items of the
hidden domain whose titles are most similar, by cosine of the text embeddings. Recall is the share of the
user's hidden items among the items so found, at most 100. Items are taken in turns, the most similar of
every name first: the first ten are "recall@10".

What 100 items give without names is the yardstick: random items, the most popular ones, and the items most
similar to the mean of the user's own title embeddings ("centroid"); and what `neighbours` knows that ten
names cannot say, its 100 best titles, one item each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import numpy.typing as npt

from llmcdsr_lite.cli.commands import FilePath, example, json_option
from llmcdsr_lite.cli.errors import Command
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.model.recall_network import unit_rows
from llmcdsr_lite.recall import recall
from llmcdsr_tools.cli.names import encoder_option, n_neighbors_option
from llmcdsr_tools.cli.options import threads_option
from llmcdsr_tools.cold_histories import ColdHistory, cold_histories
from llmcdsr_tools.data.dataset import Dataset, Split
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.embed_names import embed_texts
from llmcdsr_tools.names import read_names
from llmcdsr_tools.neighbours import GENERATOR, N_NAMES, N_NEIGHBORS, neighbour_names
from llmcdsr_tools.pipeline.measures import without_nan
from llmcdsr_tools.text_initialization import load_text_embeddings

ITEMS_PER_NAME = 10
N_LOOKED_UP = 10  # names
N_ITEMS = 100

IntArray = npt.NDArray[np.integer[Any]]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GeneratorRecall:
    """How a generator does for one hidden domain.

    Parameters
    ----------
    generator : str
        The yardsticks are ``random``, ``popular``, ``centroid`` and ``neighbours, 100 titles``.
    domain : str
        Name of the hidden domain.
    n_users : int
    n_hidden : float
        Hidden items a user, mean.
    n_names, n_items : float
        Names written and distinct items found for a user, mean.
    recall10, recall100 : float
        Mean over users of the share of hidden items found; nan without users.
    error100 : float
        Standard error of `recall100`.
    hit100 : float
        Share of users of whose hidden items at least one is found.
    """

    generator: str
    domain: str
    n_users: int
    n_hidden: float
    n_names: float
    n_items: float
    recall10: float
    recall100: float
    error100: float
    hit100: float


def evaluate_generator(
    dataset: Path | Dataset,
    titles: Path,
    *,
    split: Split = "valid",
    names: Path | None = None,
    encoder: Path | None = None,
    n_neighbors: int = N_NEIGHBORS,
    n_names: int = N_NAMES,
    seed: int = 0,
    threads: int = 1,
) -> list[GeneratorRecall]:
    """Measure `neighbours`, the yardsticks and, if given, a names file on the same users.

    Parameters
    ----------
    dataset : Path or Dataset
        The data set folder, or what was read from it.
    titles : Path
        Matrix of the stage `embed`.
    split : {"valid", "test"}
    names : Path, optional
        Names of held-out users, as `generate` writes them for this split. All generators are then
        measured on the users that have a line in it.
    encoder : Path, optional
        The encoder folder that `titles` is from; needed for names that are no titles.
    n_neighbors, n_names : int
        Of `neighbours`.
    seed : int
        Of the random items.
    threads : int
        Of the encoder.

    Returns
    -------
    list of GeneratorRecall
        By hidden domain, then generator.

    Raises
    ------
    DataError
        If a file cannot be read or does not fit the data set.
    UsageError
        If the split is train, or an encoder is needed and none is given.
    """
    if split == "train":
        raise UsageError("split is 'train', expected 'valid' or 'test': no domain is hidden in train")
    data = load_dataset(dataset) if isinstance(dataset, Path) else dataset
    if len(data.catalogue.domains) < 2:
        raise UsageError("a domain is to be hidden, but the data set has one domain alone")
    text = unit_rows(load_text_embeddings(titles, len(data.catalogue)))  # (items, E)
    histories = cold_histories(data, split)
    generated = {} if names is None else _of_file(names, data, histories)

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return embed_texts(texts, data, encoder=encoder, titles=titles, threads=threads)[0]

    rng = np.random.default_rng(seed)
    results = []
    for domain in range(len(data.catalogue.domains)):
        chosen = [h for h in histories if h.domain == domain]
        if names is not None:
            chosen = [h for h in chosen if (h.user, domain) in generated]
        lookup = _Lookup(data, text, domain, embed)
        best_titles = list(
            neighbour_names(
                data,
                [h.rows for h in chosen],
                domain,
                [h.user for h in chosen],
                n_neighbors=n_neighbors,
                n_names=max(n_names, N_ITEMS),
            )
        )
        by_neighbours = [titles[:n_names] for titles in best_titles]
        contenders: list[tuple[str, Sequence[Sequence[str]], Iterable[Rows]]] = [
            ("random", [], lookup.random(len(chosen), rng)),
            ("popular", [], lookup.popular(len(chosen))),
            ("centroid", [], lookup.centroid(chosen)),
            (f"{GENERATOR}, {N_ITEMS} titles", best_titles, lookup.names(best_titles, N_ITEMS, 1)),
            (GENERATOR, by_neighbours, lookup.names(by_neighbours)),
        ]
        if names is not None:
            written = [generated[h.user, domain][1] for h in chosen]
            who = " + ".join(sorted({generated[h.user, domain][0] for h in chosen}))
            contenders.append((who or str(names), written, lookup.names(written)))
        for generator, of_users, found in contenders:
            mean = _mean([len(n) for n in of_users]) if of_users else 0.0
            name = data.catalogue.domains[domain].name
            results.append(_measure(generator, name, mean, chosen, list(found)))
    return results


class _Lookup:
    """Ways to find at most `N_ITEMS` item rows of a domain for each user, best first."""

    def __init__(
        self,
        data: Dataset,
        unit_text: npt.NDArray[np.floating[Any]],
        domain: int,
        embed: Callable[[Sequence[str]], npt.NDArray[np.float32]],
    ) -> None:
        self._domain = data.catalogue.domains[domain]
        self._text, self._embed = unit_text, embed
        self._of_domain = unit_text[self._domain.start - 1 : self._domain.stop - 1]
        counts = np.bincount(data.train.rows, minlength=len(unit_text) + 1)
        self._counts = counts[self._domain.start : self._domain.stop]

    def random(self, n_users: int, rng: np.random.Generator) -> Iterable[Rows]:
        """Distinct items."""
        n_items, first = self._domain.n_items, self._domain.start
        return [first + rng.choice(n_items, min(N_ITEMS, n_items), replace=False) for _ in range(n_users)]

    def popular(self, n_users: int) -> Iterable[Rows]:
        """The items with most interactions, ties by row."""
        return [self._domain.start + np.argsort(-self._counts, kind="stable")[:N_ITEMS]] * n_users

    def centroid(self, histories: Sequence[ColdHistory]) -> Iterable[Rows]:
        """Items most similar to the mean of the user's own titles."""
        means = np.array([self._text[h.rows - 1].mean(axis=0) for h in histories])
        return self._domain.start + self._similar(means, N_ITEMS)

    def names(
        self, names_of_users: Sequence[Sequence[str]], n_names: int | None = None, per_name: int | None = None
    ) -> Iterable[Rows]:
        """Items most similar to the names, in turns."""
        cut = [names[: n_names or N_LOOKED_UP] for names in names_of_users]
        distinct = sorted({name for names in cut for name in names})
        place = {name: i for i, name in enumerate(distinct)}
        vectors = self._embed(distinct) if distinct else np.empty((0, 0), dtype=np.float32)
        similar = self._similar(vectors, per_name or ITEMS_PER_NAME)
        for names in cut:
            in_turns = similar[[place[name] for name in names]].T.ravel()
            first = np.unique(in_turns, return_index=True)[1]
            yield self._domain.start + in_turns[np.sort(first)][:N_ITEMS]

    def _similar(self, vectors: npt.NDArray[np.floating[Any]], k: int) -> Rows:
        """Columns (n, k) of the domain's most similar titles."""
        if not len(vectors):
            return np.empty((0, 0), dtype=np.int64)  # users without names find nothing
        return recall(vectors, self._of_domain, k)[0]


def format_generator_results(results: Sequence[GeneratorRecall]) -> str:
    """Readable table, one line a result."""
    shares = ("recall@10", "recall@100", "±", "hit@100")
    head = ("hidden domain", "generator", "users", "hidden", "names", "items", *shares)
    rows = [head]
    rows += [
        (
            r.domain,
            r.generator,
            f"{r.n_users:,}",
            f"{r.n_hidden:.1f}",
            f"{r.n_names:.1f}",
            f"{r.n_items:.1f}",
            f"{r.recall10:.4f}",
            f"{r.recall100:.4f}",
            f"{r.error100:.4f}",
            f"{r.hit100:.3f}",
        )
        for r in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            field.ljust(width) if i < 2 else field.rjust(width)
            for i, (field, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _of_file(
    path: Path, data: Dataset, histories: Sequence[ColdHistory]
) -> dict[tuple[str, int], tuple[str, tuple[str, ...]]]:
    """Generator and names by user and hidden domain."""
    known = {(h.user, h.domain) for h in histories}
    domains = {domain.name: i for i, domain in enumerate(data.catalogue.domains)}
    found = {}
    for record in read_names(path):
        key = (record.user, domains.get(record.domain, -1))
        if key not in known:
            raise DataError(
                f"{path}: user {record.user!r} with {record.domain!r} hidden is none of the split; the file "
                "must be of held-out users"
            )
        found[key] = (record.generator, record.names)
    return found


def _measure(
    generator: str,
    domain: str,
    n_names: float,
    histories: Sequence[ColdHistory],
    found: Sequence[Rows],
) -> GeneratorRecall:
    hidden = [np.unique(h.hidden) for h in histories]
    shares = {
        k: np.array([np.isin(h, rows[:k]).mean() for h, rows in zip(hidden, found, strict=True)])
        for k in (10, N_ITEMS)
    }
    n = len(histories)
    of_100 = shares[N_ITEMS]
    return GeneratorRecall(
        generator=generator,
        domain=domain,
        n_users=n,
        n_hidden=_mean([len(h) for h in hidden]),
        n_names=n_names,
        n_items=_mean([len(rows) for rows in found]),
        recall10=_mean(shares[10]),
        recall100=_mean(of_100),
        error100=float(of_100.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
        hit100=_mean(of_100 > 0),
    )


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


@click.command(cls=Command)
@click.argument("dataset", type=FilePath)
@click.option("--titles", required=True, type=FilePath, help=".npy matrix of `llmcdsr embed`.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
@click.option("--names", type=FilePath, help="Names file of `generate --split`, measured beside the others.")
@encoder_option
@n_neighbors_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random items.")
@threads_option("Of the encoder")
@json_option
@example("python benchmarks/evaluate_generator.py dataset --titles titles.npy")
def main(
    dataset: Path,
    titles: Path,
    split: Literal["valid", "test"],
    names: Path | None,
    encoder: Path | None,
    n_neighbors: int,
    seed: int,
    threads: int,
    as_json: bool,
) -> None:
    """Measure how much of a hidden domain the names of a generator recall.

    Compared on held-out users of DATASET with one domain hidden: random items, popular ones, the items
    most similar to the user's own titles, the names of `neighbours` and, if given, those of a file.
    """
    results = evaluate_generator(
        dataset,
        titles,
        split=split,
        names=names,
        encoder=encoder,
        n_neighbors=n_neighbors,
        seed=seed,
        threads=threads,
    )
    if as_json:
        click.echo(json.dumps(without_nan([asdict(result) for result in results]), ensure_ascii=False))
    else:
        click.echo(format_generator_results(results))


if __name__ == "__main__":
    main()
