"""Several SASRec models of one size as one: their representations and item vectors, one after another.

The dot product of concatenated vectors is the sum of the members' scores; `SASRecEnsemble.of` makes it their
mean by dividing each member's last layer norm by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters, dense_size


class SASRecEnsemble:
    """Members of one size, as views of one item embedding and one flat vector.

    Parameters
    ----------
    config : SASRecConfig
        Of each member.
    item_embedding : float array (items + 1, members * H)
        The item embeddings of the members side by side.
    dense : float array (members * `dense_size(config)`,)
        All other parameters, member after member.

    Attributes
    ----------
    members : tuple of SASRecParameters

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """

    def __init__(self, config: SASRecConfig, item_embedding: FloatArray, dense: FloatArray) -> None:
        n_members, rest = divmod(len(dense), dense_size(config))
        if rest or n_members < 1 or item_embedding.shape[1:] != (n_members * config.hidden,):
            raise ValueError(
                f"dense has {len(dense)} values and item_embedding the shape {item_embedding.shape}, "
                f"expected {dense_size(config)} values and {config.hidden} columns a member"
            )
        self.config = config
        self.item_embedding = item_embedding
        self.dense = dense
        tables = np.split(item_embedding, n_members, axis=1)
        parts = np.split(dense, n_members)
        self.members = tuple(SASRecParameters(config, *arrays) for arrays in zip(tables, parts, strict=True))

    @classmethod
    def of(cls, models: Sequence[SASRecParameters]) -> SASRecEnsemble:
        """The models as one whose scores are the mean of theirs.

        Raises
        ------
        ValueError
            If they are of different sizes.
        """
        config = replace(models[0].config, dropout=0.0)
        if any(replace(model.config, dropout=0.0) != config for model in models):
            raise ValueError("members must be of one size")
        scaled = [model.copy() for model in models]
        for model in scaled:
            model.norm_weight /= len(models)
            model.norm_bias /= len(models)
        table = np.concatenate([model.item_embedding for model in scaled], axis=1)
        return cls(config, table, np.concatenate([model.dense for model in scaled]))


Model = SASRecParameters | SASRecEnsemble
