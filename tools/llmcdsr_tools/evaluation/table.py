"""Measures as a table of plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmcdsr_tools.evaluation.comparison import Difference
from llmcdsr_tools.evaluation.measures import Measure

COLUMNS = (
    "HR@10",
    "NDCG@10",
    "±",
    "MRR",
    "HR@10/999",
    "unseen HR",
    "unseen NDCG",
    "unseen/999",
    "coverage",
    "popularity",
)


def format_measures(measures: Sequence[Measure], *, every_group: bool = False) -> str:
    """One line a scorer, for the groups *all* and, if anybody is, *cold* of each domain, or for every group.

    In the whole domain but for ``HR@10/999``, which is the expectation among 999 negatives; *unseen*: with
    the items of the history left out, *unseen/999* among 999 negatives that are not in it; ±: standard error
    of NDCG@10.
    """
    shown = [m for m in measures if every_group or m.group == "all" or (m.group == "cold" and m.n_targets)]
    width = max([len(m.scorer) for m in shown] + [6])
    lines = [
        f"{'domain':<16}{'users':<15}{'n':>6}  {'scorer':<{width}}" + "".join(f"{c:>12}" for c in COLUMNS)
    ]
    for m in shown:
        values = (
            m.hr10, m.ndcg10, m.ndcg10_error, m.mrr, m.expected_hr10,
            m.hr10_unseen, m.ndcg10_unseen, m.expected_hr10_unseen, m.coverage, m.popularity,
        )  # fmt: skip
        numbers = "".join(f"{'-' if math.isnan(v) else f'{v:.4f}':>12}" for v in values)
        lines.append(f"{m.domain:<16.15}{m.group:<15}{m.n_targets:>6}  {m.scorer:<{width}}{numbers}")
    return "\n".join(lines)


def format_repeats(measures: Sequence[Measure]) -> str:
    """Share of targets that the history holds already, for each domain."""
    shares = {m.domain: m.repeats for m in measures if m.group == "all" and m.n_targets}
    return "targets that are in the history: " + ", ".join(f"{d} {s:.1%}" for d, s in shares.items())


def format_differences(differences: Sequence[Difference]) -> str:
    """One line a group and domain: the difference in NDCG@10 and HR@10, and the interval of the former."""
    lines = [f"{'domain':<16}{'users':<8}{'NDCG@10':>10}{'95 % interval':>22}{'HR@10':>10}  {'':<8}"]
    for d in differences:
        low, high = d.interval
        state = "surely" if abs(d.ndcg10) > 2 * d.ndcg10_error else "by chance, perhaps"
        lines.append(
            f"{d.domain:<16.15}{d.group:<8}{d.ndcg10:>+10.4f}{f'{low:+.4f} to {high:+.4f}':>22}"
            f"{d.hr10:>+10.4f}  {state}"
        )
    return "\n".join(lines)
