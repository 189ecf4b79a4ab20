"""The model card of a bundle: what it is, how it was made, how good it is, what its mix is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.text.title_neighbours import Weighing
from llmcdsr_tools.data.dataset import Positions
from llmcdsr_tools.evaluation.comparison import verdicts
from llmcdsr_tools.evaluation.measures import Measured
from llmcdsr_tools.evaluation.model_evaluation import BASELINES
from llmcdsr_tools.evaluation.table import format_measures, format_repeats


def model_card(bundle: Bundle, valid: Measured, test: Measured) -> str:
    """The README of a bundle, in Markdown."""
    domains = bundle.catalogue.domains
    sizes = joined([f"{domain.name} ({domain.n_items:,} items)" for domain in domains], "and")
    config, training = bundle.parameters.config, bundle.training
    settings = training["settings"]
    start = training["item_start"]
    any_of = "any of " if len(domains) > 1 else ""
    return f"""# {card_title(bundle.catalogue)}

Ranks the next item of a user with history in {any_of}{sizes}.
{_members(bundle)}SASRec, hidden size {config.hidden}, {config.n_blocks} blocks, {config.n_heads}
heads, histories up to {config.max_length} items; made with llmcdsr_lite {training["llmcdsr_lite"]}.

## Use

```python
from llmcdsr_lite import Recommender

recommender = Recommender.load("path/to/this/folder")
recommender.recommend(["item id", "newer item id"], domain={domains[-1].name!r}, k=10)
```

## Training

{training["training_users"]:,} histories, {training["training_interactions"]:,} interactions. Loss:
{settings["loss"]}; items started from {start}; {_epochs(training)} best on validation
({training["best_for"]}); seed {settings["seed"]}.{_distilled(training)} All settings are in `config.json`.
{new_items_section(bundle) if bundle.new_items is not None else ""}
{mix_section(bundle)}
## Metrics

Test users, {_TARGETS[test.positions]}:

```
{format_measures(test.measures)}
```

{format_repeats(test.measures)}. {_verdicts(test)}

Validation users, on whom the epoch and the mix were chosen, every position as a target:

```
{format_measures(valid.measures)}
```

HR@10, NDCG@10 and MRR are in the whole domain, ties against the scorer; ± is the standard error of NDCG@10;
HR@10/999 is the expectation among 999 negatives of the domain. *Unseen*: as `recommend` answers with
`exclude_seen=True`, where an item of the history is out of reach. *Cold*: the same users with every item of
the target's domain taken out of the history, kept where 3 items or more remain. Coverage: share of the
domain's items that are among anybody's first ten; popularity: mean percentile of what is recommended.
"""


_TARGETS: dict[Positions, str] = {
    "last": "the last item of each history as the target",
    "every": "every item after the moment of the time split as a target",
}


def card_title(catalogue: Catalogue) -> str:
    """What a recommender of these items is called, in its card and report."""
    kind = "Cross-domain recommender" if len(catalogue.domains) > 1 else "Recommender"
    return f"{kind}: {joined([domain.name for domain in catalogue.domains], 'and')}"


def joined(names: Sequence[str], word: str) -> str:
    """Names in a sentence: a, b and c."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _verdicts(test: Measured) -> str:
    return " ".join(f"In {said}." for said in verdicts(test, "model", BASELINES))


def _epochs(training: Mapping[str, Any]) -> str:
    epochs = [str(epoch) for epoch in training["epochs"]]
    return f"epoch {epochs[0]} was" if len(epochs) == 1 else f"epochs {', '.join(epochs)} of the members were"


def _distilled(training: Mapping[str, Any]) -> str:
    """A sentence on distillation, if the model was trained on the scores of others."""
    return (
        "\nDistilled: its labels are softened by the scores of several models."
        if training["distilled"]
        else ""
    )


def _members(bundle: Bundle) -> str:
    n = len(bundle.parameters.members)
    return f"The mean of the scores of {n} members, each " if n > 1 else ""


def mix_section(bundle: Bundle) -> str:
    """What the model card says of the mix of experts."""
    domains = "\n".join(
        f"- {domain.name}: {mix}. {_worth_of_mix(mix.validation)}"
        for domain, mix in zip(bundle.catalogue.domains, bundle.mix, strict=True)
    )
    return f"""
## The mix

To the sequence model's scores are added those of experts, each with a weight that was learned on validation
and is zero where its gain was not sure: counts of what comes next (next), what the user had before (repeat)
and had lately (recent), and, for users without history in the wanted domain, what is popular there (popular).
Gains are cross-fitted: measured on users that the weights were not fitted on.
{PSEUDO if bundle.recall is not None else ""}
{domains}
"""


PSEUDO = """
For users without history in the wanted domain, pseudo items of it are recalled by what the items of the
history say: their titles, their companions (what other users who have them have in the wanted domain), or
both. Their similarity to an item (similar), and what the model says where they are put before the history
(inserted), are two more experts. Names that a caller gives (`pseudo=[...]`) are always used; their weights
were learned with the items that were taken out of a history for names, which are never wrong.
"""


def _worth_of_mix(validation: Mapping[str, Any]) -> str:
    """Gains of the mix by kind of user, in words and numbers."""
    said = []
    kinds = {"warm": "With items of the domain", "cold": "without", "named": "without, but with names"}
    for kind, who in kinds.items():
        found = validation.get(kind)
        if found is None and kind == "named":
            continue
        if found is None or found["ndcg10"] is None or found["ndcg10"] != found["ndcg10"]:
            said.append(f"{who} there were too few users to learn from")
        else:
            said.append(
                f"{who} NDCG@10 {found['ndcg10_model']:.4f} becomes {found['ndcg10']:.4f} "
                f"({found['gain']:+.4f}, standard error {found['standard_error']:.4f}; "
                f"{found['n_users']:,} users)"
            )
    return "; ".join(said) + "."


def new_items_section(bundle: Bundle) -> str:
    """What the model card says of new items."""
    assert bundle.new_items is not None
    domains = "\n".join(
        f"- new items of {domain.name}: {_worth_of_new(weighing)}"
        for domain, weighing in zip(bundle.catalogue.domains, bundle.new_items.weighings, strict=True)
    )
    return f"""
## New items

`add_items` gives an item that is new a weighed mean of the vectors of the {bundle.new_items.n_neighbours}
items of its domain with the most similar titles. How sharply they are weighed and how long the mean is made
was chosen on the validation histories, with a share of the catalogue at a time playing new items:

{domains}

These items were there in training, and the other vectors know of them: do not expect more of items that never
were.
"""


def _worth_of_new(weighing: Weighing) -> str:
    """A weighing and its measures, in words and numbers."""
    found = weighing.validation
    how = f"sharpness {weighing.sharpness:g}, scale {weighing.scale:g}"
    if not found["n_places"]:
        return f"{how}; there are no places in the validation data, so nothing was tried."
    return (
        f"{how}. HR@10 of the items that played new ones {found['hr10_new']:.4f}, with their trained vectors "
        f"{found['hr10_new_trained']:.4f}; of all others beside them {found['hr10_others']:.4f} and "
        f"{found['hr10_others_trained']:.4f} ({found['n_places']:,} places, {found['share_new']:.0%} new)."
    )
