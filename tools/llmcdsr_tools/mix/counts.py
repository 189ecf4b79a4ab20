"""Next-item counts in the form that a bundle carries: the strongest neighbours of every item."""

from __future__ import annotations

import numpy as np

from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.next_item_counts import next_counts

N_NEIGHBOURS = 50  # of an item in each domain, at most


def bundle_counts(data: Dataset, n_neighbours: int = N_NEIGHBOURS) -> NextCounts | None:
    """Next-item counts of the training histories; None where no item comes after another one."""
    domains = data.catalogue.domains
    n_rows = len(data.catalogue) + 1
    counts = next_counts(data.train, n_rows).tocoo()
    first, second = counts.coords
    weights = counts.data.astype(np.float32)
    if not len(weights):
        return None
    sparse_row = first.astype(np.int64) + n_rows * data.catalogue.domain_indices(second)
    strongest = np.lexsort((second, -weights, sparse_row))  # of equal weights the first item
    ordered = sparse_row[strongest]
    starts = np.searchsorted(ordered, np.arange(len(domains) * n_rows + 1))
    place = np.arange(len(ordered)) - starts[ordered]  # 0 for the strongest of its sparse row
    kept = np.sort(strongest[place < n_neighbours])
    kept = kept[np.lexsort((second[kept], sparse_row[kept]))]
    sizes = np.bincount(sparse_row[kept], minlength=len(domains) * n_rows)
    return NextCounts(np.concatenate([[0], np.cumsum(sizes)]), second[kept].astype(np.int32), weights[kept])
