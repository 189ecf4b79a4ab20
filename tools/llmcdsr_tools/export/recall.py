"""The recall network in the form that a bundle carries, once for everything that items can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.weights import Source
from llmcdsr_lite.model.recall_network import project, unit_rows
from llmcdsr_lite.recall import FloatArray, RecallNetwork, slot
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.export.companions import both_vectors, companion_vectors
from llmcdsr_tools.item_names import load_item_names
from llmcdsr_tools.pretrain.pretraining import Pretrained, load_pretrained
from llmcdsr_tools.run_folder import file_hash
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
    poolers : float array (domains, H), optional
        Of names of each domain; zeros, the mean, if not given.
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
    n_hidden, dimension = source.hidden, source.dimension
    domains = data.catalogue.domains
    if text.shape[1] != dimension:
        raise DataError(f"{text_embeddings}: {text.shape[1]} values a text, {pretrained} expects {dimension}")
    if poolers is None:
        poolers = np.zeros((len(domains), n_hidden), dtype=np.float32)
    if poolers.shape != (len(domains), n_hidden):
        raise DataError(f"{pretrained}: hidden size {n_hidden}, but the run's poolers are {poolers.shape}")
    items = np.zeros((len(data.catalogue) + 1, n_hidden), dtype=np.float32)
    for domain, vectors in zip(domains, source.items, strict=True):
        items[domain.start : domain.stop] = unit_rows(vectors.astype(np.float64))
    padded = np.concatenate([np.zeros_like(text[:1]), text])  # (items + 1, E)
    titles = _projected(data, np.broadcast_to(padded, (len(domains) - 1, *padded.shape)), source)
    projections = np.stack(source.projections)
    lengths = tuple(_mean_length(data, titles, target) for target in range(len(domains)))
    network = RecallNetwork(titles, items, poolers.astype(np.float32), projections, lengths)
    companions = companion_vectors(data, items)
    networks = (
        SourcedNetwork("titles", network),
        SourcedNetwork("companions", replace(network, names=companions)),
        SourcedNetwork("both", replace(network, names=both_vectors(data, titles, companions))),
    )
    if item_names is None:
        return networks
    vectors = load_item_names(item_names, data)
    if vectors.shape[2] != dimension:
        raise DataError(f"{item_names}: {vectors.shape[2]} values a name, {pretrained} expects {dimension}")
    named = replace(network, names=_projected(data, vectors, source))
    return (*networks, SourcedNetwork("names", named))


def _projected(data: Dataset, text: FloatArray, pretrained: Pretrained) -> FloatArray:
    """What items say (domains - 1, items + 1, H) by text in the order of other domains, with an axis E."""
    shape = (len(data.catalogue.domains) - 1, len(data.catalogue) + 1, pretrained.hidden)
    said = np.zeros(shape, dtype=np.float32)
    for target, projection in enumerate(pretrained.projections):
        for index, domain in enumerate(data.catalogue.domains):
            if index != target:
                own = (slot(index, target), slice(domain.start, domain.stop))
                said[own] = project(text[own], projection)
    return said


def _mean_length(data: Dataset, titles: FloatArray, target: int) -> float:
    """Mean length of projected titles in the space of a domain; 1 without any."""
    domains = data.catalogue.domains
    norms = np.concatenate(
        [
            np.linalg.norm(titles[slot(index, target), domain.start : domain.stop], axis=1)
            for index, domain in enumerate(domains)
            if index != target
        ]
    )
    return float(norms[norms > 0].mean()) if norms.any() else 1.0


def merged(data: Dataset, networks: Sequence[SourcedNetwork], mixes: Mixes) -> RecallNetwork:
    """One network, in which items say for each target domain what its mix has for source."""
    by_source = {sourced.source: sourced.network for sourced in networks}
    names = np.zeros_like(networks[0].network.names)
    for target, mix in enumerate(mixes):
        for index, domain in enumerate(data.catalogue.domains):
            if index != target:
                own = (slot(index, target), slice(domain.start, domain.stop))
                names[own] = by_source[mix.source].names[own]
    return replace(networks[0].network, names=names)
