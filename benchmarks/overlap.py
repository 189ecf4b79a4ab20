"""Where pseudo items help: the same shop with fewer users who have both domains.

    python benchmarks/overlap.py DATASET WORK --titles titles.npy --shares 1 0.25 0.05 0

A share of the overlapped training users is kept whole, each other one is cut into two users of one
domain. For each share a recommender (the best recipe) and a recall network are trained, and for cold users
(no item of the target's domain in the history) the last item of the test histories is ranked: by the model
alone, and with the pseudo items that validation chose, recalled by titles, by companions, by both, and by
the surest of these ("auto", which may be none), and with the mix on top. What is there already is not made
again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmcdsr_lite.backend import NumpyBackend
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.pseudo import PseudoChoice
from llmcdsr_tools.batches import user_domains
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.dataset import Dataset, Histories, load_dataset, save_dataset
from llmcdsr_tools.evaluation.comparison import MARGIN, difference
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.measures import TOP, Ranked, gains, rank
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import BundleScorer
from llmcdsr_tools.export.choose_pseudo import choose_pseudo
from llmcdsr_tools.export.recall import SourcedNetwork, merged, recall_networks
from llmcdsr_tools.mix.counts import bundle_counts
from llmcdsr_tools.mix.stage import learn_mix
from llmcdsr_tools.pretrain import PretrainSettings, pretrain
from llmcdsr_tools.run import best_model
from llmcdsr_tools.train import TrainSettings, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--titles", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.25, 0.05, 0.0])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset)
    print("cold test users: HR@10 among 999 / HR@10 / NDCG@10 in the whole domain; * surely other than alone")
    for share in arguments.shares:
        folder = arguments.work / f"{share:g}"
        if not (folder / "dataset").exists():
            save_dataset(cut(data, share, arguments.seed), folder / "dataset")
        print(f"{share:.0%} of the overlapped users whole", flush=True)
        study(folder, arguments.titles, arguments.seed)


def cut(data: Dataset, share: float, seed: int) -> Dataset:
    """The data set with that share of the overlapped training users whole, the others cut in two."""
    kinds = user_domains(data.train, data.catalogue)
    overlapped = np.flatnonzero(kinds == 2)
    order = np.random.default_rng([seed, 20]).permutation(len(overlapped))
    split = set(overlapped[order[round(share * len(overlapped)) :]].tolist())
    boundary = data.catalogue.domains[1].start
    lists, users = [], []
    for user, history in enumerate(data.train):
        parts = [history]
        if user in split:
            parts = [history[history < boundary], history[history >= boundary]]
        for n, part in enumerate(parts):
            if len(part) >= 2:
                lists.append(part.tolist())
                users.append(f"{data.train.users[user]}{'/' + str(n) if user in split else ''}")
    return replace(data, train=Histories.from_lists(lists, users))


def study(folder: Path, titles: Path, seed: int) -> None:
    """Train what is not there, and print a line for each way of recalling."""
    dataset, run, pretrained = (folder / name for name in ("dataset", "run", "pretrained.npz"))
    data = load_dataset(dataset)
    train(dataset, run, TrainSettings(seed=seed), text_embeddings=titles, resume=True)
    if not pretrained.exists():
        pretrain(dataset, titles, pretrained, PretrainSettings(seed=seed))
    parameters, _ = load_model(best_model(run, "mean"))
    parameters.item_embedding[0] = 0
    backend, table = NumpyBackend(parameters), parameters.item_embedding
    networks = recall_networks(data, pretrained, titles)
    counts = np.bincount(data.train.rows, minlength=len(data.catalogue) + 1)
    plain = Bundle(data.catalogue, parameters, counts)
    alone = cold_ranks(plain, data)
    tell("model alone", alone, alone, data)
    max_length = parameters.config.max_length
    for sourced in networks:
        a, b = choose_pseudo(backend, table, data, [sourced], max_length=max_length)
        shown = tuple(PseudoChoice(t.auto.shown.setting, source=sourced.source) for t in (a, b))
        found = replace(plain, recall=sourced.network, pseudo=(shown[0], shown[1]))
        tell(f"by {sourced.source}", cold_ranks(found, data), alone, data)
    a, b = choose_pseudo(backend, table, data, networks, max_length=max_length)
    chosen = with_choices(plain, data, networks, (a.choice(), b.choice()))
    tell("auto", cold_ranks(chosen, data), alone, data)
    settings = zip(data.catalogue.domains, chosen.pseudo, strict=True)
    print("   ", "; ".join(f"{domain.name}: {choice.auto}" for domain, choice in settings))
    next_counts = bundle_counts(data)
    mix = learn_mix(BundleScorer(chosen, backend), data, next_counts, seed)
    tell("auto and mix", cold_ranks(replace(chosen, mix=mix, next_counts=next_counts), data), alone, data)


def with_choices(
    plain: Bundle,
    data: Dataset,
    networks: tuple[SourcedNetwork, ...],
    choices: tuple[PseudoChoice, PseudoChoice],
) -> Bundle:
    """A bundle with the pseudo items that were chosen."""
    return replace(plain, recall=merged(data, networks, choices), pseudo=choices)


def cold_ranks(bundle: Bundle, data: Dataset) -> list[Ranked]:
    """Ranks of the last items of cold test users, for each target domain."""
    scorer = BundleScorer(bundle, NumpyBackend(bundle.parameters))
    cold = Queries.of_data(data, "test", "last").cold(data.catalogue)
    return [rank(scorer, cold.into(domain), domain) for domain in data.catalogue.domains]


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
