"""What was tried with pseudo items on validation, and what is taken of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmcdsr_lite.pseudo import PseudoChoice, PseudoSetting, Source

MARGIN = 2.0  # standard errors


@dataclass(frozen=True)
class Trial:
    """One setting on the validation queries of one domain.

    Parameters
    ----------
    setting : PseudoSetting
    hr10, ndcg10 : float
        999 negatives; nan without queries.
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
        """The best setting other than off; the first of equals. Without queries, off."""
        return max(self.tried, key=lambda trial: trial.merit, default=self.off)

    @property
    def winner(self) -> Trial:
        """The best setting if its gain is above the margin, else off."""
        best = self.best
        return best if best.gain > 0 and best.gain >= self.margin * best.standard_error else self.off

    def summary(self) -> dict[str, Any]:
        """JSON-able: what was tried, and what the best setting is worth."""
        if not self.n_users:
            return {"n_users": 0}
        best = self.best
        return {
            "n_users": self.n_users,
            "n_settings": len(self.tried),
            "margin": self.margin,
            "hr10_off": self.off.hr10,
            "ndcg10_off": self.off.ndcg10,
            "best": str(best.setting),
            "source": best.source,
            "hr10_best": best.hr10,
            "ndcg10_best": best.ndcg10,
            "gain": best.gain,
            "standard_error": best.standard_error,
        }


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
        """What goes into the bundle: the winner for `auto`, the best of all for names that are given."""
        chosen = PseudoChoice(
            self.auto.winner.setting, validation=self.auto.summary(), source=self.auto.best.source
        )
        if self.names.n_users:
            validation = {**chosen.validation, "names": self.names.summary()}
            chosen = replace(chosen, names=self.names.best.setting, validation=validation)
        return chosen
