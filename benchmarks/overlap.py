"""Where pseudo items help: the same shop with fewer users who have both domains.

    python benchmarks/overlap.py DATASET WORK --titles titles.npy --shares 1 0.25 0.05 0

A share of the overlapped training users is kept whole, each other one is cut into two users of one
domain. For each share a recommender (the best recipe) and a recall network are trained, and for cold users
(no item of the target's domain in the history) the last item of the test histories is ranked: by the model
alone; with pseudo items recalled by titles, by companions, by both, for the names that similar users give
(`neighbours`) and, with --item-names, for those of a file, with weights fitted on validation, sure or not;
and by the learned mix, in which an expert must be sure of its gain. What is there already is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.mix.weights import DomainMix
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.ranking import Ranking
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import load_dataset, save_dataset
from llmcdsr_tools.evaluation.comparison import MARGIN, difference
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.measures import TOP, Ranked, gains, rank
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import BundleScorer, FloatArray, IntArray, ModelScorer, Scorer
from llmcdsr_tools.export.recall import merged, recall_networks
from llmcdsr_tools.mix.counts import bundle_counts
from llmcdsr_tools.mix.learning import fit_experts
from llmcdsr_tools.mix.positions import collect
from llmcdsr_tools.mix.pseudo_scores import PseudoScores
from llmcdsr_tools.mix.whole_mix import MOST_TARGETS, learn_mix
from llmcdsr_tools.neighbours import neighbour_names
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.pretrain.pretraining import pretrain
from llmcdsr_tools.run_folder import best_model
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.train.training_run import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--titles", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.25, 0.05, 0.0])
    parser.add_argument("--item-names", type=Path, help="file of `embed-names --for items`: one more source")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset)
    print("cold test users: HR@10 among 999 / HR@10 / NDCG@10 in the whole domain; * surely other than alone")
    for share in arguments.shares:
        folder = arguments.work / f"{share:g}"
        if not (folder / "dataset").exists():
            save_dataset(cut(data, share, arguments.seed), folder / "dataset")
        print(f"{share:.0%} of the overlapped users whole", flush=True)
        study(folder, arguments.titles, arguments.seed, arguments.item_names)


def cut(data: Dataset, share: float, seed: int) -> Dataset:
    """The data set with that share of the overlapped training users whole, the others cut into domains."""
    overlapped = data.train.overlapped(data.catalogue)
    order = np.random.default_rng([seed, 20]).permutation(len(overlapped))
    split = set(overlapped[order[round(share * len(overlapped)) :]].tolist())
    lists, users = [], []
    for user, history in enumerate(data.train):
        parts = [history]
        if user in split:
            parts = [history[(history >= d.start) & (history < d.stop)] for d in data.catalogue.domains]
        for n, part in enumerate(parts):
            if len(part) >= 2:
                lists.append(part.tolist())
                users.append(f"{data.train.users[user]}{'/' + str(n) if user in split else ''}")
    return replace(data, train=Histories.from_lists(lists, users))


def study(folder: Path, titles: Path, seed: int, item_names: Path | None) -> None:
    """Train what is not there, and print a line for each way of recalling."""
    dataset, run, pretrained = (folder / name for name in ("dataset", "run", "pretrained.npz"))
    data = load_dataset(dataset)
    train(dataset, run, TrainSettings(seed=seed), text_embeddings=titles, resume=True)
    if not pretrained.exists():
        pretrain(dataset, titles, pretrained, PretrainSettings(seed=seed))
    parameters, _ = load_model(best_model(run, "mean"))
    parameters.item_embedding[0] = 0
    networks = recall_networks(data, pretrained, titles, item_names=item_names)
    max_length = parameters.config.max_length
    model = ModelScorer(NumpyBackend(parameters), parameters.item_embedding)
    pseudo = [PseudoScores(model, data.catalogue, n.network, n.source, max_length) for n in networks]
    popularity = np.bincount(data.train.rows, minlength=len(data.catalogue) + 1)
    plain = Bundle(data.catalogue, parameters, popularity)
    alone = cold_ranks(plain, data)
    tell("model alone", alone, alone, data)
    for sourced, scores in zip(networks, pseudo, strict=True):
        first, second = (fitted(plain, data, index, scores, seed) for index in (0, 1))
        found = replace(plain, recall=sourced.network, mix=(first, second))
        tell(f"by {sourced.source}", cold_ranks(found, data), alone, data)
        print("   ", first.cold, "|", second.cold)
    first, second = (fitted(plain, data, index, pseudo[0], seed, named=True) for index in (0, 1))
    found = replace(plain, recall=networks[0].network, mix=(first, second))
    tell("neighbours", cold_ranks(found, data, named=True), alone, data)
    print("   ", first.named, "|", second.named)
    counts = bundle_counts(data)
    mix = learn_mix(model, data, counts, seed, pseudo)
    bundle = replace(plain, recall=merged(data, networks, mix), mix=mix, next_counts=counts)
    tell("learned mix", cold_ranks(bundle, data), alone, data)
    print("   ", mix[0], "|", mix[1])


def fitted(
    plain: Bundle, data: Dataset, index: int, scores: PseudoScores, seed: int, *, named: bool = False
) -> DomainMix:
    """The mix with pseudo items of one source alone, or for names, their weights fitted on validation."""
    domains = data.catalogue.domains
    queries = Queries.of_data(data, "valid", "every").into(domains[index]).cold(data.catalogue)
    queries = queries.sample(MOST_TARGETS, seed)
    names = neighbours_of(data, queries, index) if named else None
    model = ModelScorer(NumpyBackend(plain.parameters), plain.item_vectors)
    positions = collect(model, queries, index, domains, None, seed, scores, names)
    weights = fit_experts(positions, seed).weights
    if not named:
        return DomainMix(cold=weights, source=scores.source)
    return DomainMix(named=weights) if weights.recalls else DomainMix()


def neighbours_of(data: Dataset, queries: Queries, index: int) -> list[tuple[str, ...]]:
    """Names of a domain for each query, written by `neighbours`."""
    return list(neighbour_names(data, queries.histories, index, [None] * len(queries)))


def cold_ranks(bundle: Bundle, data: Dataset, *, named: bool = False) -> list[Ranked]:
    """Ranks of the last items of cold test users, for each target domain."""
    cold = Queries.of_data(data, "test", "last").cold(data.catalogue)
    scorer: Scorer = BundleScorer(bundle, NumpyBackend(bundle.parameters))
    found = []
    for index, domain in enumerate(data.catalogue.domains):
        queries = cold.into(domain)
        if named:
            scorer = NamedScorer(bundle, queries, neighbours_of(data, queries, index))
        found.append(rank(scorer, queries, domain))
    return found


class NamedScorer:
    """A bundle that is given names for each of some queries."""

    name = "named"

    def __init__(self, bundle: Bundle, queries: Queries, names: list[tuple[str, ...]]) -> None:
        backend = NumpyBackend(bundle.parameters)
        self._names = {id(h): given for h, given in zip(queries.histories, names, strict=True)}
        self._ranking = Ranking(bundle, backend, ExactSearch(bundle.item_vectors))

    def scores(self, histories: Sequence[IntArray], domain: Domain) -> FloatArray:
        """See `Scorer.scores`; the histories are the queries' own."""
        rows = [history.astype(np.int64) for history in histories]
        recalled = self._ranking.recall(rows, [domain], [self._names[id(h)] for h in histories])
        return self._ranking.scores(rows, recalled, (domain.start, domain.stop))


def tell(name: str, found: list[Ranked], alone: list[Ranked], data: Dataset) -> None:
    cells = []
    for one, other, domain in zip(found, alone, data.catalogue.domains, strict=True):
        metrics = ExpectedMetrics(domain.n_items)
        among, before = metrics.hits(one.rank).mean(), metrics.hits(other.rank).mean()
        diff = difference(one, other, (name, "alone"), "cold", domain.name)
        sure = "*" if abs(diff.ndcg10) > MARGIN * diff.ndcg10_error else " "
        hr10, ndcg10 = (one.rank < TOP).mean(), gains(one.rank).mean()
        cells.append(f"{among:.3f} ({among / before - 1:+.0%}) / {hr10:.3f} / {ndcg10:.4f}{sure}")
    print(f"  {name:<16}" + "".join(f"{cell:>36}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
