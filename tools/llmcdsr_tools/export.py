"""Export: a trained run becomes a bundle, its ONNX graph checked against the NumPy model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.backend import NumpyBackend, OnnxBackend
from llmcdsr_lite.bundle import ITEM_VECTORS, ONNX, Bundle, write_bundle
from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.pseudo import PseudoChoice, PseudoRecall, PseudoSetting
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.reference.parameters import SASRecParameters
from llmcdsr_lite.version import __version__
from llmcdsr_tools.checkpoint import load_model, load_poolers
from llmcdsr_tools.choose_pseudo import choose_pseudo
from llmcdsr_tools.dataset import Dataset, load_dataset
from llmcdsr_tools.evaluate import Result, evaluate, format_results
from llmcdsr_tools.onnx_graph import build_onnx, check_onnx
from llmcdsr_tools.pseudo_trials import MARGIN
from llmcdsr_tools.recall_export import recall_network
from llmcdsr_tools.run import BestFor, RunHeader, best_model, file_hash, read_run

AGREEMENT = 1e-5  # largest allowed difference between ONNX and NumPy, relative to the largest value


def export(
    run: Path,
    output: Path,
    *,
    dataset: Path | None = None,
    best_for: BestFor = "mean",
    seed: int = 0,
    overwrite: bool = False,
    pretrained: Path | None = None,
    text_embeddings: Path | None = None,
) -> list[Result]:
    """Write the bundle of a run.

    With `pretrained` and `text_embeddings` it carries the recall network, and what is done with pseudo
    items is chosen on validation (`choose_pseudo`): nothing, where nothing helps.

    Parameters
    ----------
    run : Path
        Folder of a training run.
    output : Path
        Folder of the bundle.
    dataset : Path, optional
        The run's data set, if it is not where it was.
    best_for : {"mean", "a", "b"}
        The model that was best on the mean of both domains' validation HR@10, or for one domain.
    seed : int
        Of the negatives of the metrics in the model card.
    overwrite : bool
        Replace a folder that is there.
    pretrained : Path, optional
        What `pretrain` wrote. If the run was trained with pseudo items, the same file.
    text_embeddings : Path, optional
        ``.npy`` matrix (items, E) that pre-training was done with.

    Returns
    -------
    list of Result
        Metrics of the exported model on the test users, as the model card shows them.

    Raises
    ------
    TrainingError
        If the run is incomplete or of another data set, or ONNX and NumPy disagree.
    DataError
        If the folder is there and must not be overwritten, or what recall needs does not fit.
    """
    header = read_run(run, dataset)
    parameters, description = load_model(best_model(run, best_for))
    data = load_dataset(header.dataset)
    if parameters.config.n_items != len(data.catalogue):
        raise TrainingError(f"{run}: the model has {parameters.config.n_items} items, not the data set's")
    parameters.item_embedding[0] = 0  # padding: never trained, never read
    network = _recall_network(run, header, data, best_for, pretrained, text_embeddings)
    backend = NumpyBackend(parameters)
    table, max_length = parameters.item_embedding, parameters.config.max_length
    choices, recaller = (PseudoChoice(), PseudoChoice()), None
    if network is not None:
        a, b = choose_pseudo(backend, table, data, network, max_length=max_length, seed=seed)
        choices = (a.choice(), b.choice())
        if any(choice.auto.mode != "off" for choice in choices):  # or there is nothing else to measure
            recaller = PseudoRecall(data.catalogue, network, choices, max_length)
    metrics = {
        split: evaluate(backend, table, data, split=split, seed=seed, pseudo=recaller)
        for split in ("valid", "test")
    }
    training = {
        "llmcdsr_lite": __version__,
        "settings": header.settings,
        "text_initialization": header.text_embeddings_sha256 is not None,
        "epoch": description["epoch"],
        "best_for": best_for,
        "training_users": len(data.train),
        "training_interactions": len(data.train.rows),
        "negatives_seed": seed,
        **{f"{split}_metrics": [_as_json(r) for r in results] for split, results in metrics.items()},
    }
    counts = np.bincount(data.train.rows, minlength=len(data.catalogue) + 1)
    bundle = Bundle(data.catalogue, parameters, counts, training, recall=network, pseudo=choices)
    onnx_model = _checked_onnx(parameters, _sample(data, parameters.config.max_length))
    card = model_card(bundle, metrics["valid"], metrics["test"])
    write_bundle(bundle, output, onnx_model=onnx_model, model_card=card, overwrite=overwrite)
    return metrics["test"]


def model_card(bundle: Bundle, valid: list[Result], test: list[Result]) -> str:
    """The README of a bundle, in Markdown."""
    a, b = bundle.catalogue.domains
    config, training = bundle.parameters.config, bundle.training
    settings = training["settings"]
    start = "text embeddings" if training["text_initialization"] else "random embeddings"
    return f"""# Cross-domain recommender: {a.name} and {b.name}

Ranks the next item of a user with history in {a.name} ({a.n_items:,} items), {b.name} ({b.n_items:,} items)
or both. SASRec, hidden size {config.hidden}, {config.n_blocks} blocks, {config.n_heads} heads, histories
up to {config.max_length} items; made with llmcdsr_lite {training["llmcdsr_lite"]}.

## Use

```python
from llmcdsr_lite import Recommender

recommender = Recommender.load("path/to/this/folder")
recommender.recommend(["item id", "newer item id"], domain={b.name!r}, k=10)
```

## Training

{training["training_users"]:,} histories, {training["training_interactions"]:,} interactions. Loss:
{settings["loss"]}; items started from {start}; epoch {training["epoch"]} was best on validation
({training["best_for"]}); seed {settings["seed"]}. All settings are in `config.json`.
{pseudo_section(bundle) if bundle.recall is not None else ""}
## Metrics

The last item of each held-out user is the target. It is ranked among 999 uniform negatives of its domain
(all other items, where there are fewer), and among its whole domain; ties count against the model. As in the
official protocol, items of the history are ranked, too; `recommend` leaves them out by default, so these
figures understate it. Cold cross-domain: the same users with every item of the target's domain taken out of
the history, kept where 3 items or more remain. Negatives: seed {training["negatives_seed"]}.

Test users:

```
{format_results(test)}
```

Validation users, on whom the epoch was chosen:

```
{format_results(valid)}
```
"""


def pseudo_section(bundle: Bundle) -> str:
    """What the model card says of pseudo items."""
    domains = list(zip(bundle.catalogue.domains, bundle.pseudo, strict=True))
    auto = "\n".join(
        f"- {domain.name}: {_worth(choice.auto, choice.validation)}" for domain, choice in domains
    )
    names = "\n".join(
        f"- {domain.name}: {_worth(choice.names, choice.validation.get('names', {'n_users': 0}))}"
        for domain, choice in domains
    )
    return f"""
## Pseudo items

For a user without history in the wanted domain, this bundle can recall items of that domain by the titles
of the history. `pseudo="auto"`, the default, does what won on validation, for each wanted domain:

{auto}

Measured on cold cross-domain users, as explained below. A setting is taken only if its HR@10 is above that
of "off" by {MARGIN:g} standard errors of the paired difference: among so many settings the best is above by
luck alone. Names that a caller gives (`pseudo=[...]`) are always used. How was chosen with the items that
were taken out of the history for names, so this is what names are worth that are never wrong:

{names}
"""


def _worth(setting: PseudoSetting, found: Mapping[str, Any]) -> str:
    """A setting and its gain, in words and numbers."""
    if not found["n_users"]:
        return f"{setting}; there are no such users in the validation data, so nothing was tried."
    change = f"HR@10 {found['hr10_best']:.4f}, against {found['hr10_off']:.4f} without"
    gain = f"{found['gain']:+.4f}, standard error {found['standard_error']:.4f}"
    if setting.mode != "off":
        relative = f", {found['gain'] / found['hr10_off']:+.1%}" if found["hr10_off"] else ""
        return f"{setting}. {change} ({gain}{relative}; {found['n_users']:,} users)."
    verdict = "too little to rely on" if found["gain"] > 0 else "nothing to gain"
    return (
        f"off. The best of {found['n_settings']} settings ({found['best']}) had {change} "
        f"({gain}; {found['n_users']:,} users): {verdict}."
    )


def _recall_network(
    run: Path,
    header: RunHeader,
    data: Dataset,
    best_for: BestFor,
    pretrained: Path | None,
    text_embeddings: Path | None,
) -> RecallNetwork | None:
    """The recall network, if it is asked for; the poolers are the run's, if it has trained any."""
    if pretrained is None and text_embeddings is None:
        return None
    if pretrained is None or text_embeddings is None:
        raise TrainingError("a recall network needs both the pre-training and its text embeddings")
    if header.pretrained_sha256 not in (None, file_hash(pretrained)):
        raise TrainingError(f"{pretrained}: is not the pre-training that {run} was trained with")
    return recall_network(data, pretrained, text_embeddings, load_poolers(best_model(run, best_for)))


def _as_json(result: Result) -> dict[str, Any]:
    """A result for config.json; null where a group has no users: JSON knows no nan."""
    return {**asdict(result), "hr": None, "ndcg": None} if not result.n_users else asdict(result)


def _sample(data: Dataset, max_length: int) -> list[npt.NDArray[np.int64]]:
    """Histories of every length to compare the two forms of the model on, real and random."""
    rng = np.random.default_rng(0)
    n_items = len(data.catalogue)
    made = [rng.integers(1, n_items + 1, length) for length in (1, 2, max_length, max_length + 3)]
    return made + [h.astype(np.int64) for _, h in zip(range(200), data.train, strict=False) if len(h)]


def _checked_onnx(parameters: SASRecParameters, histories: list[npt.NDArray[np.int64]]) -> bytes:
    """Build the ONNX model, and compare it with the NumPy model before anyone relies on it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / ITEM_VECTORS, parameters.item_embedding)
        offset = (folder / ITEM_VECTORS).stat().st_size - parameters.item_embedding.nbytes
        onnx_model = build_onnx(parameters, ITEM_VECTORS, offset)
        (folder / ONNX).write_bytes(onnx_model)
        check_onnx(str(folder / ONNX))
        onnx = OnnxBackend(folder / ONNX, parameters.item_embedding, parameters.config.max_length, 1)
        expected = NumpyBackend(parameters).represent(histories)
        difference = float(np.abs(onnx.represent(histories) - expected).max() / np.abs(expected).max())
    if not difference <= AGREEMENT:
        raise TrainingError(
            f"the ONNX model differs from the NumPy model by {difference:.1e}, more than {AGREEMENT:.0e}"
        )
    return onnx_model
