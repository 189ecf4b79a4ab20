"""From interactions to histories: k-core filter, order by time, and the hold-out splits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.dataset import MIN_HELD_OUT, Histories

MIN_TRAIN = 2
"""Items a training history needs: one to see and one to predict."""

MIN_LEAVE_ONE_OUT = MIN_TRAIN + 2
"""Items a history needs to give up two targets and still be of use in training."""

Ints = npt.NDArray[np.int64]


class Splits(NamedTuple):
    """Histories of the three splits; the last item of those in `valid` and `test` is the target."""

    train: Histories
    valid: Histories
    test: Histories


def k_core(users: npt.NDArray[np.int32], items: npt.NDArray[np.int32], k: int) -> Ints:
    """Drop users and items of fewer than `k` interactions, again and again until none is left to drop.

    Interactions are counted, not distinct items: a repeated purchase counts each time. What remains is
    the largest set in which every user and every item has `k`, so the order of dropping has no say.

    Parameters
    ----------
    users, items : int32 array (interactions,)
        Codes of user and item.
    k : int
        Least number of interactions; with 0 or 1 all of them remain.

    Returns
    -------
    int64 array (kept,)
        Positions of the interactions that remain, rising.
    """
    kept = np.arange(len(users))
    while True:
        user, item = users[kept], items[kept]
        enough = np.bincount(user)[user] >= k
        enough &= np.bincount(item)[item] >= k
        if enough.all():
            return kept
        kept = kept[enough]


def near_duplicates(
    users: npt.NDArray[np.int32],
    items: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64] | npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """Whether an interaction is an earlier one's again: one user, one item, one time (interactions,).

    Parameters
    ----------
    users, items : int32 array (interactions,)
        Codes of user and item; users rise.
    times : int64 or float64 array (interactions,)
        When; of each user they rise.
    """
    tied = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    places = np.flatnonzero(np.append(tied, False) | np.insert(tied, 0, False))
    order = places[np.lexsort((items[places], times[places], users[places]))]  # stable: the first stays first
    same = np.logical_and.reduce([a[order][1:] == a[order][:-1] for a in (users, items, times)])
    repeated = np.zeros(len(users), dtype=np.bool_)
    repeated[order[1:][same]] = True
    return repeated


def pack_histories(
    users: npt.NDArray[np.int32], rows: npt.NDArray[np.int32], user_ids: list[str]
) -> Histories:
    """Gather each user's interactions, which come user after user and oldest first.

    Parameters
    ----------
    users : int32 array (interactions,)
        User codes, rising, ``0 <= code < len(user_ids)``.
    rows : int32 array (interactions,)
        Item rows.
    user_ids : list of str
        Id of every user code.
    """
    return Histories(rows, _offsets(np.bincount(users, minlength=len(user_ids))), user_ids)


def take(histories: Histories, users: Ints, drop_last: int | Ints = 0) -> Histories:
    """Histories of some users, each without its last items.

    Parameters
    ----------
    histories : Histories
        Where from.
    users : int64 array (taken,)
        Positions of the users.
    drop_last : int or int64 array (taken,)
        How many items to leave off at the end, at most the length of the history.
    """
    starts = histories.offsets[users]
    lengths = histories.offsets[users + 1] - starts - drop_last
    offsets = _offsets(lengths)
    index = np.arange(offsets[-1])
    index += np.repeat(starts - offsets[:-1], lengths)
    return Histories(histories.rows[index], offsets, [histories.users[user] for user in users])


def drop_short(histories: Histories) -> Histories:
    """Training histories of at least `MIN_TRAIN` items: a shorter one has no next item to learn."""
    long_enough = histories.lengths >= MIN_TRAIN
    return histories if long_enough.all() else take(histories, np.flatnonzero(long_enough))


def hold_out_overlapped(
    histories: Histories, catalogue: Catalogue, valid_share: float, test_share: float, seed: int
) -> Splits:
    """Hold out whole overlapped users for validation and test, as the official data does.

    Where there is one domain, any user of two items or more may be held out. A share gives so many of them,
    rounded, and at least one unless it is 0. Users keep their order within each split; a user is in one split
    only.

    Parameters
    ----------
    histories : Histories
        All users.
    catalogue : Catalogue
    valid_share, test_share : float
        Shares of the overlapped users.
    seed : int
        Chooses the users; the same seed chooses the same of the same histories.

    Raises
    ------
    DataError
        If there are too few overlapped users.
    """
    several = len(catalogue.domains) > 1
    candidates = (
        histories.overlapped(catalogue) if several else np.flatnonzero(histories.lengths >= MIN_HELD_OUT)
    )
    n_valid, n_test = (_share(len(candidates), share) for share in (valid_share, test_share))
    if n_valid + n_test > len(candidates):
        raise DataError(
            f"hold-out split: {len(candidates)} users have items in "
            f"{'several domains' if several else 'the domain'}, "
            f"{n_valid + n_test} are needed for validation and test; bring more data or take the "
            "leave-one-out split"
        )
    shuffled = np.random.default_rng(seed).permutation(candidates)
    in_test = np.sort(shuffled[:n_test])
    in_valid = np.sort(shuffled[n_test : n_test + n_valid])
    in_train = np.setdiff1d(np.arange(len(histories)), shuffled[: n_test + n_valid])
    return Splits(take(histories, in_train), take(histories, in_valid), take(histories, in_test))


def leave_one_out(histories: Histories) -> Splits:
    """Hold out the end of every history of `MIN_LEAVE_ONE_OUT` items or more.

    Its last item is the test target, with all before it as history; the one before that is the
    validation target, with all before it as history; the rest is for training. Shorter histories are
    for training as they are.

    Raises
    ------
    DataError
        If no history is long enough.
    """
    enough = histories.lengths >= MIN_LEAVE_ONE_OUT
    held_out = np.flatnonzero(enough)
    if not len(held_out):
        raise DataError(
            f"leave-one-out split: no history has {MIN_LEAVE_ONE_OUT} items; the longest has "
            f"{max(histories.lengths, default=0)}"
        )
    everyone = np.arange(len(histories))
    return Splits(
        take(histories, everyone, np.where(enough, 2, 0)),
        take(histories, held_out, 1),
        take(histories, held_out),
    )


def hold_out_by_time(
    histories: Histories,
    times: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    valid_share: float,
    test_share: float,
    *,
    first_alone: bool = False,
) -> Splits:
    """Hold out what comes after a moment: training sees nothing of it.

    The last share of the interactions is for test, the share before it for validation; interactions of one
    time are in one split, and where both moments would be one, validation has the time before. A held-out
    history is all that the user had before the moment, and the targets after it; there must be something
    before the first target.

    Parameters
    ----------
    histories : Histories
        All users.
    times : int64 or float64 array (interactions,)
        When; those of each user rise.
    valid_share, test_share : float
        Shares of the interactions.
    first_alone : bool
        End each held-out history with its first target.

    Raises
    ------
    DataError
        If a split has no target although its share is above 0.
    """
    in_order = np.sort(times)
    moments = [
        in_order[min(round(len(times) * share), len(times) - 1)]
        for share in (1 - valid_share - test_share, 1 - test_share)
    ]
    if valid_share and test_share and moments[0] == moments[1]:  # coarse times: the one before, if any
        earlier = in_order[in_order < moments[1]]
        moments[0] = earlier[-1] if len(earlier) else moments[0]
    before_valid, before_test = (_lengths_before(histories, times, moment) for moment in moments)
    if not test_share:
        before_test = histories.lengths
    if not valid_share:
        before_valid = before_test
    everyone = np.arange(len(histories))
    held_out = []
    for name, start, stop, share in (
        ("validation", before_valid, before_test, valid_share),
        ("test", before_test, histories.lengths, test_share),
    ):
        first = np.maximum(start, 1)  # a target has something before it
        chosen = np.flatnonzero(stop > first) if share else everyone[:0]
        if share and not len(chosen):
            raise DataError(
                f"time split: no user has something before and something in the {name} part; a larger share, "
                "or another split, may leave more"
            )
        end = np.minimum(stop, first + 1) if first_alone else stop
        held_out.append(take(histories, chosen, (histories.lengths - end)[chosen]))
    return Splits(take(histories, everyone, histories.lengths - before_valid), *held_out)


def _lengths_before(
    histories: Histories, times: npt.NDArray[np.int64] | npt.NDArray[np.float64], moment: float
) -> Ints:
    """How much of every history lies before a moment (users,)."""
    upto = np.zeros(len(times) + 1, dtype=np.int64)
    np.cumsum(times < moment, out=upto[1:])
    return upto[histories.offsets[1:]] - upto[histories.offsets[:-1]]


def _share(n: int, share: float) -> int:
    return max(1, round(n * share)) if share > 0 else 0


def _offsets(lengths: Ints) -> Ints:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
