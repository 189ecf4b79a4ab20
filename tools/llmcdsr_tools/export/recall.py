"""The recall network in the form that a bundle carries, once for everything that items can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.settings import Source
from llmcdsr_lite.recall import FloatArray, RecallNetwork
from llmcdsr_lite.reference.recall_network import project, unit_rows
from llmcdsr_tools.dataset import Dataset
from llmcdsr_tools.export.companions import both_vectors, companion_vectors
from llmcdsr_tools.item_names import load_item_names
from llmcdsr_tools.pretrain.stage import load_pretrained
from llmcdsr_tools.run import file_hash
from llmcdsr_tools.text_initialization import load_text_embeddings


@dataclass(frozen=True, eq=False)
class SourcedNetwork:
    """A recall network, and what items say in it."""

    source: Source
    network: RecallNetwork


def recall_networks(
    data: Dataset,
    pretrained: Path,
    text_embeddings: Path,
    poolers: FloatArray | None = None,
    item_names: Path | None = None,
) -> tuple[SourcedNetwork, ...]:
    """Build the recall network of a bundle for each source: they differ in `names` alone.

    Parameters
    ----------
    data : Dataset
    pretrained : Path
        What `pretrain` wrote.
    text_embeddings : Path
        ``.npy`` matrix (items, E), the one that pre-training was done with.
    poolers : float array (2, H), optional
        Of names of domain A, of B; zeros, the mean, if not given.
    item_names : Path, optional
        What `embed_item_names` wrote: one more thing that items can say.

    Raises
    ------
    DataError
        If a file cannot be read, or they do not fit together.
    """
    source = load_pretrained(pretrained, data)
    expected = source.description.get("text_embeddings_sha256")
    if expected is not None and file_hash(text_embeddings) != expected:
        raise DataError(f"{text_embeddings}: is not the text embeddings that {pretrained} was made with")
    text = load_text_embeddings(text_embeddings, len(data.catalogue))
    n_hidden, dimension = source.projection_a.shape
    if text.shape[1] != dimension:
        raise DataError(f"{text_embeddings}: {text.shape[1]} values a text, {pretrained} expects {dimension}")
    if poolers is None:
        poolers = np.zeros((2, n_hidden), dtype=np.float32)
    if poolers.shape != (2, n_hidden):
        raise DataError(f"{pretrained}: hidden size {n_hidden}, but the run's poolers are {poolers.shape}")
    titles = np.zeros((len(data.catalogue) + 1, n_hidden), dtype=np.float32)
    items = np.zeros_like(titles)
    lengths = [1.0, 1.0]
    for index, domain in enumerate(data.catalogue.domains):
        own = slice(domain.start, domain.stop)
        titles[own] = project(text[domain.start - 1 : domain.stop - 1], source.projections[1 - index])
        items[own] = unit_rows(source.items[index].astype(np.float64))
        norms = np.linalg.norm(titles[own], axis=1)
        if norms.any():
            lengths[1 - index] = float(norms[norms > 0].mean())
    projections = np.stack(source.projections)
    network = RecallNetwork(titles, items, poolers.astype(np.float32), projections, (lengths[0], lengths[1]))
    companions = companion_vectors(data, items)
    networks = (
        SourcedNetwork("titles", network),
        SourcedNetwork("companions", replace(network, names=companions)),
        SourcedNetwork("both", replace(network, names=both_vectors(data, titles, companions))),
    )
    if item_names is None:
        return networks
    vectors = load_item_names(item_names, data)
    if vectors.shape[1] != dimension:
        raise DataError(f"{item_names}: {vectors.shape[1]} values a name, {pretrained} expects {dimension}")
    named = np.zeros_like(titles)
    for index, domain in enumerate(data.catalogue.domains):
        own = slice(domain.start, domain.stop)
        named[own] = project(vectors[own], source.projections[1 - index])
    return (*networks, SourcedNetwork("names", replace(network, names=named)))


def merged(data: Dataset, networks: Sequence[SourcedNetwork], mixes: Mixes) -> RecallNetwork:
    """One network, in which items of each domain say what the mix of the other one has for source."""
    by_source = {sourced.source: sourced.network for sourced in networks}
    names = np.zeros_like(networks[0].network.names)
    for domain, mix_of in zip(reversed(data.catalogue.domains), mixes, strict=True):
        names[domain.start : domain.stop] = by_source[mix_of.source].names[domain.start : domain.stop]
    return replace(networks[0].network, names=names)
