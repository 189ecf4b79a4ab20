"""Export: a trained run becomes a bundle, its ONNX graph checked against the NumPy model."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.bundle.folder import BUNDLE, Bundle, write_bundle
from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.files import check_folder
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.version import __version__
from llmcdsr_tools.checkpoint import load_members, load_poolers
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.evaluation.baselines import baselines
from llmcdsr_tools.evaluation.measures import GROUPS, Measured, measure
from llmcdsr_tools.evaluation.scorers import ModelScorer, bundle_scorers
from llmcdsr_tools.export.model_card import model_card
from llmcdsr_tools.export.onnx_graph import checked_onnx
from llmcdsr_tools.export.recall import SourcedNetwork, merged, recall_networks
from llmcdsr_tools.mix.counts import bundle_counts
from llmcdsr_tools.mix.pseudo_scores import PseudoScores
from llmcdsr_tools.mix.whole_mix import learn_mix
from llmcdsr_tools.run_folder import MEAN, RunHeader, best_model, file_hash, member_runs, read_run
from llmcdsr_tools.text_initialization import load_text_embeddings
from llmcdsr_tools.title_map import fit_title_map


def export(
    run: str | Path,
    output: str | Path,
    *,
    dataset: str | Path | None = None,
    best_for: str = MEAN,
    seed: int = 0,
    overwrite: bool = False,
    pretrained: str | Path | None = None,
    text_embeddings: str | Path | None = None,
    item_names: str | Path | None = None,
) -> Measured:
    """Write the bundle of a run; the mix of experts is learned on validation (`learn_mix`).

    With `text_embeddings` it carries what makes vectors of new items (`title_map`); with `pretrained`, too,
    the recall network, and pseudo items are experts of the mix.

    Parameters
    ----------
    run : str or Path
        Folder of a training run.
    output : str or Path
        Folder of the bundle.
    dataset : str or Path, optional
        The run's data set, if it is not where it was.
    best_for : str
        The model that was best on validation on the mean of all domains ("mean"), or for the domain of that
        name.
    seed : int
        Of what is drawn to learn the mix.
    overwrite : bool
        Replace a bundle that is there; no other folder is, unless it is empty.
    pretrained : str or Path, optional
        What `pretrain` wrote. If the run was trained with pseudo items, the same file.
    text_embeddings : str or Path, optional
        ``.npy`` matrix (items, E), the one that pre-training was done with.
    item_names : str or Path, optional
        What `embed_item_names` wrote for the items: with `pretrained`, one more thing that they can say.

    Returns
    -------
    Measured
        On the test users, as the model card shows it.

    Raises
    ------
    TrainingError
        If the run is incomplete or of another data set, or ONNX and NumPy disagree.
    DataError
        If the folder is there and must not be overwritten, or what recall needs does not fit.
    """
    run = Path(run)
    output = Path(output)
    dataset = None if dataset is None else Path(dataset)
    pretrained = None if pretrained is None else Path(pretrained)
    text_embeddings = None if text_embeddings is None else Path(text_embeddings)
    item_names = None if item_names is None else Path(item_names)
    check_folder(output, BUNDLE, overwrite=overwrite)  # before anything takes long
    runs = member_runs(run)
    header = read_run(runs[0], dataset)
    for other in runs[1:]:
        if _but_seed(read_run(other, dataset)) != _but_seed(header):
            raise TrainingError(
                f"{other}: was trained otherwise than {runs[0]}, and not only with another seed"
            )
    parameters, descriptions = load_members([best_model(one, best_for) for one in runs])
    data = load_dataset(header.dataset)
    if parameters.config.n_items != len(data.catalogue):
        raise TrainingError(f"{run}: the model has {parameters.config.n_items} items, not the data set's")
    parameters.item_embedding[0] = 0  # padding: never trained, never read
    backend = NumpyBackend(parameters)
    table, max_length = parameters.item_embedding, parameters.config.max_length
    text = None if text_embeddings is None else load_text_embeddings(text_embeddings, len(data.catalogue))
    networks = _recall_networks(runs[0], header, data, best_for, pretrained, text_embeddings, item_names)
    model = ModelScorer(backend, table)
    pseudo = [PseudoScores(model, data.catalogue, n.network, n.source, max_length) for n in networks]
    counts = bundle_counts(data)
    mix = learn_mix(model, data, counts, seed, pseudo)
    weighed = any(weights.next for one in mix for weights in (one.warm, one.cold))
    bundle = Bundle(
        data.catalogue,
        parameters,
        np.bincount(data.train.rows, minlength=len(data.catalogue) + 1),
        recall=merged(data, networks, mix) if networks else None,
        new_items=None if text is None else fit_title_map(data, text, backend, table),
        mix=mix,
        next_counts=counts if weighed else None,
    )
    scorers = [*bundle_scorers(bundle, backend), *baselines(data)]
    measured = {
        "valid": measure(scorers, data, "valid", "every"),
        "test": measure(scorers, data, "test", data.test_positions),
    }
    training = {
        "llmcdsr_lite": __version__,
        "settings": header.settings,
        "item_start": _item_start(header),
        "distilled": header.teacher_sha256 is not None,
        "epochs": [description["epoch"] for description in descriptions],
        "best_for": best_for,
        "training_users": len(data.train),
        "training_interactions": len(data.train.rows),
        **{f"{split}_measures": _summary(found) for split, found in measured.items()},
    }
    bundle = replace(bundle, training=training)
    onnx_model = checked_onnx(parameters, data)
    card = model_card(bundle, measured["valid"], measured["test"])
    write_bundle(bundle, output, onnx_model=onnx_model, model_card=card, overwrite=overwrite)
    return measured["test"]


def _but_seed(header: RunHeader) -> RunHeader:
    """What a run was trained with, but for its seed."""
    return replace(header, settings={**header.settings, "seed": None})


def _item_start(header: RunHeader) -> str:
    """What item embeddings started from, in words."""
    if header.start_from_sha256 is not None:
        return "an earlier model"
    if header.text_embeddings_sha256 is not None:
        return "text embeddings"
    if header.settings["pretrained_items"]:
        return "pre-trained vectors"
    return "word vectors of titles" if header.settings["item_start"] == "titles" else "random embeddings"


def _recall_networks(
    run: Path,
    header: RunHeader,
    data: Dataset,
    best_for: str,
    pretrained: Path | None,
    text_embeddings: Path | None,
    item_names: Path | None,
) -> tuple[SourcedNetwork, ...]:
    """Recall networks, if they are asked for; the poolers are the run's, if it has trained any."""
    if pretrained is None:
        if item_names is not None:
            raise TrainingError("names of items need the pre-training, which projects them")
        return ()
    if len(data.catalogue.domains) < 2:
        raise TrainingError(
            "there is one domain alone: there is nothing to recall for; leave out pre-training"
        )
    if text_embeddings is None:
        raise TrainingError("a recall network needs both the pre-training and its text embeddings")
    if header.pretrained_sha256 not in (None, file_hash(pretrained)):
        raise TrainingError(f"{pretrained}: is not the pre-training that {run} was trained with")
    poolers = load_poolers(best_model(run, best_for))
    return recall_networks(data, pretrained, text_embeddings, poolers, item_names)


def _summary(measured: Measured) -> list[dict[str, Any]]:
    """Measures of whole groups for config.json, which writes null for nan."""
    return [asdict(m) for m in measured.measures if m.group in GROUPS]
