"""Adam (Kingma and Ba, ICLR 2015) for a dense array and for a table of which a step touches few rows.

A step of 128 sequences touches a twentieth of the item table. Dense Adam decays the moments of the other
rows and goes on moving them by what is left of the first. `DeferredAdam` does the same, when a row is next
needed; `RowAdam` leaves rows that a step does not touch, and their moments, as they are. Both cost what the
rows touched cost. ``benchmarks/row_adam.py`` measures what they are worth on validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.reference.layers import FloatArray
from llmcdsr_lite.reference.sasrec import RowGradient

_MAX_AGE = 1 << 11  # steps after which every row is brought up to date


@dataclass(frozen=True)
class AdamSettings:
    """Constants of Adam; `epsilon` is added to the root of the corrected second moment."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-8


class Adam:
    """Adam on an array that every step touches as a whole.

    Parameters
    ----------
    values : float array
        Updated in place by `step`.
    settings : AdamSettings

    Attributes
    ----------
    first, second : float arrays, the shape of `values`
        Running means of the gradient and of its square.
    n_steps : int
        Steps taken.
    """

    def __init__(self, values: FloatArray, settings: AdamSettings) -> None:
        self.values = values
        self.settings = settings
        self.first = np.zeros_like(values)
        self.second = np.zeros_like(values)
        self.n_steps = 0

    def step(self, gradient: FloatArray) -> None:
        """Take one step along a gradient of the shape of `values`."""
        self.n_steps += 1
        self.values -= adam_change(self.first, self.second, gradient, self.n_steps, self.settings)

    def catch_up(self, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Bring rows, by default all, up to date before they are read; here they always are."""

    def resume(self, n_steps: int) -> None:
        """Go on after so many steps; values and moments are set already, up to date."""
        self.n_steps = n_steps


class RowAdam(Adam):
    """Adam on a table, moving only the rows that a step touches (see the module's text)."""

    def step_rows(self, gradient: RowGradient) -> None:
        """Take one step along the gradient of some rows."""
        self.n_steps += 1
        rows = gradient.rows
        first, second = self.first[rows], self.second[rows]
        self.values[rows] -= adam_change(first, second, gradient.values, self.n_steps, self.settings)
        self.first[rows], self.second[rows] = first, second


class DeferredAdam(RowAdam):
    """Dense Adam on a table at the price of the rows touched: the others move when they are next needed.

    A row without a gradient still moves, by what is left of its first moment. After step t its moments are
    m and v; over the next n steps they decay to ``b1^n m`` and ``b2^n v``, and the value moves by minus

        lr m / (sqrt(v) + eps) * sum_{j=1..n} r^j sqrt(1 - b2^(t+j)) / (1 - b1^(t+j)),  r = b1 / sqrt(b2)

    which is one factor for every age n: `catch_up` applies it. Against dense Adam that is exact but for
    eps, which there stays as it is while the root of v shrinks.

    Values and moments of a row are those of dense Adam once `catch_up` has been told of it; call that
    before they are read.
    """

    def __init__(self, values: FloatArray, settings: AdamSettings) -> None:
        super().__init__(values, settings)
        self._last = np.zeros(len(values), dtype=np.int64)  # step that each row is up to date with
        steps = np.arange(_MAX_AGE + 1)
        self._decays = [(beta**steps).astype(values.dtype) for beta in (settings.beta1, settings.beta2)]
        self._powers = (settings.beta1 * settings.beta2**-0.5) ** steps
        self._sums = np.zeros(_MAX_AGE + 1)  # the sum above, for rows that are n steps behind

    def step_rows(self, gradient: RowGradient) -> None:
        """Take one step along the gradient of some rows; the others fall one step behind."""
        self.catch_up(gradient.rows)
        super().step_rows(gradient)
        self._last[gradient.rows] = self.n_steps
        s = self.settings
        self._sums[1:] = self._sums[:-1]
        corrected = (1 - s.beta2**self.n_steps) ** 0.5 / (1 - s.beta1**self.n_steps)
        self._sums[1:] += self._powers[1:] * corrected
        if self.n_steps % _MAX_AGE == 0:  # no row is further behind than the sums go
            self.catch_up()

    def catch_up(self, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Bring rows, by default all, to where dense Adam has them.

        Parameters
        ----------
        rows : int64 array (n,), optional
            May repeat.
        """
        if rows is None:
            rows = np.arange(len(self.values))
        ages = self.n_steps - self._last[rows]
        behind = ages > 0
        rows, ages = rows[behind], ages[behind]  # where a row repeats, all of it is done twice, to one effect
        first, second = self.first[rows], self.second[rows]
        change = np.sqrt(second)
        change += self.settings.epsilon
        np.divide(first, change, out=change)
        change *= (self.settings.learning_rate * self._sums[ages, None]).astype(change.dtype)
        self.values[rows] -= change
        self.first[rows] = first * self._decays[0][ages, None]
        self.second[rows] = second * self._decays[1][ages, None]
        self._last[rows] = self.n_steps

    def resume(self, n_steps: int) -> None:
        """Go on after so many steps; values and moments are set already, up to date."""
        super().resume(n_steps)
        self._last[:] = n_steps


class WeightAverage:
    """Running average of arrays that training changes: what is validated and exported in their place.

    It is the plain mean of the first samples, and an exponential one when there are `horizon` of them
    (averages of weights: Polyak and Juditsky, 1992; Izmailov et al., 2018).

    Parameters
    ----------
    arrays : sequence of float arrays
    horizon : float
        Samples that the average spans, from 1.

    Attributes
    ----------
    means : list of float arrays
    n_samples : int
    """

    def __init__(self, arrays: Sequence[FloatArray], horizon: float) -> None:
        self.arrays = arrays
        self.horizon = horizon
        self.means = [np.zeros_like(array) for array in arrays]
        self.n_samples = 0

    def sample(self) -> None:
        """Take in the arrays as they are."""
        self.n_samples += 1
        share = 1 / min(self.n_samples, self.horizon)
        for mean, array in zip(self.means, self.arrays, strict=True):
            mean *= mean.dtype.type(1 - share)
            mean += mean.dtype.type(share) * array


def adam_change(
    first: FloatArray, second: FloatArray, gradient: FloatArray, n_steps: int, settings: AdamSettings
) -> FloatArray:
    """Update the moments in place by step `n_steps`, from 1, and return what to subtract from the values.

    ``m = b1 m + (1 - b1) g``; ``v = b2 v + (1 - b2) g^2``;
    ``lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)``.
    """
    s = settings
    first *= s.beta1
    first += (1 - s.beta1) * gradient
    second *= s.beta2
    squared = gradient * gradient
    squared *= 1 - s.beta2
    second += squared
    denominator = np.sqrt(second, out=squared)
    denominator *= (1 - s.beta2**n_steps) ** -0.5
    denominator += s.epsilon
    change = first / denominator
    change *= s.learning_rate / (1 - s.beta1**n_steps)
    return change
