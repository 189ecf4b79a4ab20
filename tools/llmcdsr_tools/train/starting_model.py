"""Training that goes on from an earlier model, on a catalogue that has grown or shrunk since.

Items are matched by domain and id; whatever else the model has is taken over. New items get the vectors that
`Recommender.add_items` would give them, a mean of the items of their domain with similar titles: by the title
map of the bundle, where the text at hand is what that map was made of, else by one whose neighbours weigh as
they do unless validation says otherwise. In a new domain the neighbours are of all domains. A title that says
nothing gives the mean of the domain. Items that are gone are dropped, and so is the state of the optimiser.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import CONFIG, read_bundle
from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.errors import SettingsError, TrainingError
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.text.title_neighbours import LEVELS, TitleMap, Weighing
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.run_folder import RUN_HEADER, best_model, file_hash, folder_hash, member_runs, read_header
from llmcdsr_tools.title_map import DEFAULT, default_title_map
from llmcdsr_tools.train.recipes import TrainSettings
from llmcdsr_tools.word_vectors import WordEncoder

SIZES = ("hidden", "n_blocks", "n_heads", "max_length")
_SAME_TEXT = 0.95  # median cosine of stored titles and given ones; rounding leaves .999, another encoder 0

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Start:
    """Parameters that training starts from.

    Parameters
    ----------
    path : Path
        The model that they are from.
    items : float32 array (items, H)
        Vectors of the items of the new catalogue.
    dense : float array
        All other parameters, see `SASRecParameters`.
    n_kept, n_new, n_gone : int
        Items that both catalogues have, that only the new one has, and that only the old one has.
    """

    path: Path
    items: npt.NDArray[np.float32]
    dense: npt.NDArray[np.floating]
    n_kept: int
    n_new: int
    n_gone: int


@dataclass(frozen=True, eq=False)
class StartingModel:
    """A trained model, one member of a bundle or of a run.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of the config.json of a bundle, which has the hashes of all its files; of the best.npz of a run; of
        those of its members, one after another, where it has several.
    catalogue : Catalogue
    parameters : SASRecParameters
    title_map : TitleMap or None
        What makes vectors of new items, if it is a bundle that has it.
    """

    path: Path
    sha256: str
    catalogue: Catalogue
    parameters: SASRecParameters
    title_map: TitleMap | None = None

    def check_sizes(self, given: Mapping[str, int]) -> None:
        """Refuse sizes, by their names in `SIZES`, that are not those of the model.

        Raises
        ------
        SettingsError
            The message names both.
        """
        for name, value in given.items():
            own = getattr(self.parameters.config, name)
            if value != own:
                raise SettingsError(
                    f"{name} is {value}, but the model to start from, {self.path}, has {own}; leave it out"
                )

    def sized(self, settings: TrainSettings) -> TrainSettings:
        """The settings with the sizes of the model.

        Raises
        ------
        SettingsError
            If one is neither the model's nor the default, which stands for one that is not given.
        """
        defaults = TrainSettings()
        sizes = {name: getattr(settings, name) for name in SIZES}
        self.check_sizes({name: n for name, n in sizes.items() if n != getattr(defaults, name)})
        return replace(settings, **{name: getattr(self.parameters.config, name) for name in SIZES})

    def start(self, catalogue: Catalogue, text: npt.NDArray[np.float32] | None = None) -> Start:
        """Parameters for another catalogue.

        Parameters
        ----------
        catalogue : Catalogue
        text : float32 array (items, E), optional
            Text embeddings of its titles; word vectors, unless given.

        Raises
        ------
        TrainingError
            If the catalogues have no item in common.
        """
        old_rows = self._old_rows(catalogue)
        kept = old_rows > 0
        n_kept = int(kept.sum())
        if not n_kept:
            ours, theirs = (", ".join(repr(d.name) for d in c.domains) for c in (self.catalogue, catalogue))
            raise TrainingError(
                f"{self.path}: none of its items (domains {ours}) is in the data set (domains {theirs}); "
                "items are matched by the name of their domain and their id"
            )
        table = self.parameters.item_embedding
        items = table[old_rows].astype(np.float32, copy=False)
        if not kept.all():
            if text is None:
                text = WordEncoder(self.catalogue.titles).encode(catalogue.titles)
            title_map = self._title_map(old_rows, text)
            for domain in catalogue.domains:
                own = np.arange(domain.start - 1, domain.stop - 1)
                new = own[~kept[own]]
                items[new] = self._new_vectors(title_map, text[new], domain)
        n_gone = len(self.catalogue) - n_kept
        return Start(self.path, items, self.parameters.dense, n_kept, len(items) - n_kept, n_gone)

    def _old_rows(self, catalogue: Catalogue) -> Rows:
        """Rows (items,) of a catalogue's items in that of the model; 0 for new ones."""
        row_of_id = self.catalogue.row_of_id
        old_rows = np.array([row_of_id.get(item, 0) for item in catalogue.ids], dtype=np.int64)
        for domain in catalogue.domains:
            own = old_rows[domain.start - 1 : domain.stop - 1]
            old = self._old_domain(domain.name)
            own[(own < old.start) | (own >= old.stop) if old else slice(None)] = 0
        return old_rows

    def _old_domain(self, name: str) -> Domain | None:
        return next((domain for domain in self.catalogue.domains if domain.name == name), None)

    def _title_map(self, old_rows: Rows, text: npt.NDArray[np.float32]) -> TitleMap:
        """The title map of the bundle, or one of the items that are still there.

        Text of another encoder would find neighbours, too, but any: it is compared on the items that are
        known.
        """
        old_text = np.zeros((len(self.catalogue), text.shape[1]), dtype=np.float32)
        kept = old_rows > 0
        old_text[old_rows[kept] - 1] = text[kept]
        own = self.title_map
        if own is not None and own.dimension == text.shape[1]:
            directions = own.directions_of(old_text)
            cosines = np.einsum("nd,nd->n", directions, own.directions[1:].astype(np.float32) / LEVELS)
            known = directions.any(axis=1) & own.directions[1:].any(axis=1)
            if known.any() and np.median(cosines[known]) > _SAME_TEXT:
                return own
        return default_title_map(old_text, len(self.catalogue.domains))

    def _new_vectors(
        self, title_map: TitleMap, text: npt.NDArray[np.float32], domain: Domain
    ) -> npt.NDArray[np.float32]:
        """Vectors (n, H) of new items of a domain from the text (n, E) of their titles."""
        old = self._old_domain(domain.name)
        if old is None:
            start, stop, weighing = 1, len(self.catalogue) + 1, Weighing(*DEFAULT)
        else:
            start, stop = old.start, old.stop
            weighing = title_map.weighings[self.catalogue.domains.index(old)]
        table = self.parameters.item_embedding
        vectors: npt.NDArray[np.float32] = title_map.item_vectors(text, table, start, stop, weighing)
        says_nothing = ~title_map.directions_of(text).any(axis=1) | ~vectors.any(axis=1)
        vectors[says_nothing] = table[start:stop].mean(axis=0)
        return vectors


def read_starting_model(path: Path, number: int = 1, members: int = 1) -> StartingModel:
    """Read the model of a bundle or of a run, the best on the mean of all domains.

    Parameters
    ----------
    path : Path
        Folder of a bundle or of a run.
    number, members : int
        Which of its members, from 1, and how many it must have.

    Raises
    ------
    TrainingError
        If the folder is neither, has another number of members, or is a run whose data set, which knows the
        ids of its items, is gone.
    BundleError, DataError
        If it is damaged.
    """
    if (path / CONFIG).exists():
        return _of_bundle(path, number, members)
    runs = member_runs(path)
    if not (runs[0] / RUN_HEADER).exists():
        raise TrainingError(f"{path}: is neither a bundle ({CONFIG}) nor a training run ({RUN_HEADER})")
    _check_members(path, len(runs), members)
    run = runs[number - 1]
    header = read_header(run)
    if not header.dataset.is_dir() or folder_hash(header.dataset) != header.dataset_sha256:
        raise TrainingError(
            f"{run}: {header.dataset} is not the data set that the run was trained on any more; start from "
            "the bundle of the run, which has the ids of its items with it"
        )
    catalogue = load_dataset(header.dataset).catalogue
    model = best_model(run)
    parameters, _ = load_model(model)
    if parameters.config.n_items != len(catalogue):
        raise TrainingError(f"{model}: has {parameters.config.n_items} items, its data set {len(catalogue)}")
    hashes = [file_hash(best_model(one)) for one in runs]
    sha256 = hashes[0] if len(runs) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return StartingModel(path, sha256, catalogue, parameters)


def _of_bundle(path: Path, number: int, members: int) -> StartingModel:
    bundle = read_bundle(path)
    models = bundle.parameters.members
    _check_members(path, len(models), members)
    parameters = models[number - 1].copy()
    # the scores of a bundle are the mean of its members', see `SASRecEnsemble.of`
    parameters.norm_weight *= len(models)
    parameters.norm_bias *= len(models)
    return StartingModel(path, bundle.hashes[CONFIG], bundle.catalogue, parameters, bundle.new_items)


def _check_members(path: Path, found: int, expected: int) -> None:
    if found != expected:
        model = "one model" if found == 1 else f"{found} members"
        raise TrainingError(f"{path}: has {model}, {expected} to train; train as many as it has")
