"""Rows and scores of an answer, compared with those of another implementation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ROUNDING = 1e-4
Answer = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


def assert_same(found: Answer, wanted: Answer) -> None:
    """The same scores but for rounding, and the same rows but where rounding may exchange them."""
    (rows, scores), (other_rows, other_scores) = found, wanted
    assert rows.shape == other_rows.shape
    np.testing.assert_allclose(scores, other_scores, rtol=0, atol=ROUNDING)
    assert len(set(rows.tolist())) == len(rows)
    for place in np.flatnonzero(rows != other_rows):
        near = other_rows[np.abs(other_scores - scores[place]) <= ROUNDING]
        at_the_end = other_scores[-1] >= scores[place] - ROUNDING  # one that is as good was cut off
        assert at_the_end or rows[place] in near
