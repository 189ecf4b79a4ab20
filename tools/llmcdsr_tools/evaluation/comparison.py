"""Paired differences of two scorers on the same queries, and what they say."""

from __future__ import annotations

from dataclasses import dataclass

from llmcdsr_tools.evaluation.measures import GROUPS, TOP, Measured, Ranked, gains, standard_error

MARGIN = 2.0  # standard errors that a difference needs to be a finding
_INTERVAL = 1.96  # of a normal distribution, 95 %


@dataclass(frozen=True)
class Difference:
    """NDCG@10 and HR@10 of one scorer minus those of another one, in the whole domain.

    Parameters
    ----------
    scorer, other, group, domain : str
    ndcg10, hr10 : float
        Mean differences.
    ndcg10_error, hr10_error : float
        Standard errors of them, paired by query and clustered by user.
    """

    scorer: str
    other: str
    group: str
    domain: str
    ndcg10: float
    hr10: float
    ndcg10_error: float
    hr10_error: float

    @property
    def is_above(self) -> bool:
        """Whether the scorer is surely better, by `MARGIN` standard errors of NDCG@10."""
        return self.ndcg10 > MARGIN * self.ndcg10_error

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference in NDCG@10."""
        return self.ndcg10 - _INTERVAL * self.ndcg10_error, self.ndcg10 + _INTERVAL * self.ndcg10_error


def difference(first: Ranked, second: Ranked, names: tuple[str, str], group: str, domain: str) -> Difference:
    """Compare the ranks of two scorers of the same queries."""
    gain = gains(first.rank) - gains(second.rank)
    hit = (first.rank < TOP).astype(float) - (second.rank < TOP)
    errors = standard_error(gain, first.users), standard_error(hit, first.users)
    return Difference(*names, group, domain, float(gain.mean()), float(hit.mean()), *errors)


def compare(measured: Measured, scorer: str, other: str) -> list[Difference]:
    """All differences of two scorers, by group and domain; those without queries are left out."""
    found = []
    for (name, group, domain), ranked in measured.ranked.items():
        if name == scorer and group in GROUPS and len(ranked.rank):
            against = measured.ranked[other, group, domain]
            found.append(difference(ranked, against, (scorer, other), group, domain))
    return found


def verdicts(measured: Measured, scorer: str, baselines: tuple[str, ...]) -> list[str]:
    """What is to be said of each domain: whether a scorer is above the best of the baselines, in words."""
    said = []
    for (name, group, domain), ranked in measured.ranked.items():
        if name != scorer or group != "all" or not len(ranked.rank):
            continue
        best = max(baselines, key=lambda b: float(gains(measured.ranked[b, group, domain].rank).mean()))
        found = difference(ranked, measured.ranked[best, group, domain], (scorer, best), group, domain)
        low, high = found.interval
        state = "is above" if found.is_above else "is NOT surely above"
        said.append(
            f"{domain}: {scorer} {state} the best baseline, {best}: NDCG@10 {found.ndcg10:+.4f} "
            f"(95 % interval {low:+.4f} to {high:+.4f})"
        )
    return said
