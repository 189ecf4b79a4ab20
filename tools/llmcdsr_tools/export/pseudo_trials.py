"""What was tried with pseudo items on validation, and what is taken of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.pseudo import PseudoChoice, PseudoSetting, Source
from llmcdsr_tools.evaluation.expected import ExpectedMetrics

MARGIN = 2.0  # standard errors

Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trial:
    """One setting on the validation queries of one domain.

    Parameters
    ----------
    setting : PseudoSetting
    hr10, ndcg10 : float
        Against 999 negatives, in expectation over their draw; nan without queries.
    gain : float
        HR@10 minus that of "off".
    standard_error : float
        Of the gain, paired by user.
    source : {"titles", "companions", "both"}
        What the items of a history said.
    """

    setting: PseudoSetting
    hr10: float
    ndcg10: float
    gain: float
    standard_error: float
    source: Source = "titles"

    @property
    def merit(self) -> tuple[float, float]:
        """What trials are ordered by."""
        return self.hr10, self.ndcg10


@dataclass(frozen=True)
class Trials:
    """All settings that were tried for one target domain and one kind of names.

    Parameters
    ----------
    domain : str
    n_users : int
        Queries that they were tried on.
    off : Trial
    tried : tuple of Trial
        All others, in the order of the grid.
    margin : float
        Standard errors that a gain needs.
    """

    domain: str
    n_users: int
    off: Trial
    tried: tuple[Trial, ...]
    margin: float = MARGIN

    @property
    def best(self) -> Trial:
        """The highest HR@10, then NDCG@10, other than off; the first of equals. Without queries, off."""
        return max(self.tried, key=lambda trial: trial.merit, default=self.off)

    @property
    def winner(self) -> Trial:
        """The surest gain: the setting with the highest gain less `margin` standard errors of it.

        Off, if that is not above zero. Of so many settings the best is one or two standard errors above
        off by luck alone, and pseudo items must never make a bundle worse.
        """
        surest = max(self.tried, key=self._sure_gain, default=self.off)
        return surest if self._sure_gain(surest) > 0 else self.off

    @property
    def shown(self) -> Trial:
        """What to report, and to use where it cannot be off: the winner, or else the best."""
        return self.best if self.winner is self.off else self.winner

    def _sure_gain(self, trial: Trial) -> float:
        return trial.gain - self.margin * trial.standard_error

    def summary(self) -> dict[str, Any]:
        """JSON-able: what was tried, and what the winner, or else the best setting, is worth."""
        if not self.n_users:
            return {"n_users": 0}
        shown = self.shown
        return {
            "n_users": self.n_users,
            "n_settings": len(self.tried),
            "margin": self.margin,
            "hr10_off": self.off.hr10,
            "ndcg10_off": self.off.ndcg10,
            "setting": str(shown.setting),
            "source": shown.source,
            "hr10": shown.hr10,
            "ndcg10": shown.ndcg10,
            "gain": shown.gain,
            "standard_error": shown.standard_error,
        }


def trial(
    metrics: ExpectedMetrics, setting: PseudoSetting, rank: Ranks, off: Ranks, source: Source = "titles"
) -> Trial:
    """What the ranks (n,) with a setting are worth, compared with those without, user by user."""
    difference = metrics.hits(rank) - metrics.hits(off)
    n = len(rank)
    return Trial(
        setting,
        float(metrics.hits(rank).mean()),
        float(metrics.gains(rank).mean()),
        float(difference.mean()),
        float(difference.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf,
        source,
    )


@dataclass(frozen=True)
class PseudoTrials:
    """What was tried for one target domain.

    Parameters
    ----------
    auto : Trials
        With what the items of the history say for names, as `pseudo="auto"` has it.
    names : Trials
        With the items of the domain that were taken out of the history for names: what a generator would
        write that is never wrong.
    """

    auto: Trials
    names: Trials

    def choice(self) -> PseudoChoice:
        """What goes into the bundle: for names that are given, the best if nothing is sure."""
        chosen = PseudoChoice(
            self.auto.winner.setting, validation=self.auto.summary(), source=self.auto.shown.source
        )
        if self.names.n_users:
            validation = {**chosen.validation, "names": self.names.summary()}
            chosen = replace(chosen, names=self.names.shown.setting, validation=validation)
        return chosen
