"""A data set of users of snacks, of pans and of both, for the tests of generation."""

from __future__ import annotations

import numpy as np

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.data.dataset import Dataset, Histories

N_A, N_B = 20, 30
N_SINGLE = 24


def make_dataset() -> Dataset:
    rng = np.random.default_rng(5)
    titles = [f"Snack {n}" for n in range(N_A)] + [f"Pan {n}" for n in range(N_B)]
    catalogue = Catalogue.from_sizes(
        [f"i{n}" for n in range(N_A + N_B)], titles, ("food", "kitchen"), (N_A, N_B)
    )
    a, b = np.arange(1, N_A + 1), np.arange(N_A + 1, N_A + N_B + 1)
    single = [rng.choice((a, b)[n % 2], 4, False).tolist() for n in range(N_SINGLE)]
    both = [[*rng.choice(a, 5, False).tolist(), *rng.choice(b, 6, False).tolist()] for _ in range(20)]
    train = Histories.from_lists([*single, *both[:12]], [f"u{n}" for n in range(N_SINGLE + 12)])
    valid = Histories.from_lists(both[12:16], [f"v{n}" for n in range(4)])
    test = Histories.from_lists(both[16:], [f"w{n}" for n in range(4)])
    return Dataset(catalogue, train, valid, test)
