"""The check against official numbers, on the official cases and on one made here by a padded model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from padded_sasrec import numerical_gradient, padded_features

from conformance import main
from conformance_check.check import check, relative_error
from llmcdsr_lite.errors import DataError

Arrays = dict[str, npt.NDArray[Any]]
HIDDEN, HEADS, BLOCKS, LENGTH, ITEMS = 4, 2, 2, 4, (5, 6)
SEQUENCES = [[3, 9, 1, 3], [11], [4, 8]]
OFFICIAL = Path(__file__).parents[4] / "shared" / "conformance"


@pytest.mark.parametrize("name", ["case_1.npz", "case_2.npz"])
def test_the_official_cases(name: str) -> None:
    if not (OFFICIAL / name).exists():
        pytest.skip(f"the official case is not at {OFFICIAL / name}")
    results = {r.group: r for r in check(OFFICIAL / name)}
    assert all(r.passed for r in results.values())
    groups = ("forward", "predict", "contrastive", "recall", "meta", "meta_sgd", "meta_warm")
    assert set(results) == set(groups)
    for group in groups:
        error = results[group].error
        assert error is not None
        assert 0 < error < (1e-9 if group == "meta" else 1e-12)  # not zero: it was compared


def ours(arrays: Arrays) -> Arrays:
    """PyTorch's names to the padded model's; every array is a view, so that it can be nudged."""
    found = {
        "position_embedding": arrays["param/pos_emb.weight"],
        "norm_weight": arrays["param/last_layernorm.weight"],
        "norm_bias": arrays["param/last_layernorm.bias"],
    }
    for block in range(BLOCKS):
        for kind in ("weight", "bias"):
            stacked = arrays[f"param/attention_layers.{block}.in_proj_{kind}"]
            convolutions = [arrays[f"param/forward_layers.{block}.conv{i}.{kind}"] for i in (1, 2)]
            inner, outer = (c[:, :, 0] if kind == "weight" else c for c in convolutions)
            found |= {
                f"blocks.{block}.query_{kind}": stacked[:HIDDEN],
                f"blocks.{block}.key_value_{kind}": stacked[HIDDEN:],
                f"blocks.{block}.output_{kind}": arrays[f"param/attention_layers.{block}.out_proj.{kind}"],
                f"blocks.{block}.attention_norm_{kind}": arrays[f"param/attention_layernorms.{block}.{kind}"],
                f"blocks.{block}.feed_forward_norm_{kind}": arrays[
                    f"param/forward_layernorms.{block}.{kind}"
                ],
                f"blocks.{block}.inner_{kind}": inner,
                f"blocks.{block}.outer_{kind}": outer,
            }
    return found


def contrastive_arrays(rng: np.random.Generator) -> Arrays:
    """Two views of three items; their loss by its formula, its gradients by central differences."""
    text, collaborative = rng.normal(size=(2, 3, HIDDEN))

    def loss() -> float:
        views = [*text, *collaborative]
        total = 0.0
        for i, anchor in enumerate(views):
            others = sum(math.exp(anchor @ view) for j, view in enumerate(views) if j != i)
            total += math.log(others) - anchor @ views[(i + 3) % 6]
        return total / 6

    return {
        "contrastive/text": text,
        "contrastive/collaborative": collaborative,
        "contrastive/loss": np.array(loss()),
        "contrastive/grad_text": numerical_gradient(loss, text),
        "contrastive/grad_collaborative": numerical_gradient(loss, collaborative),
    }


def recall_arrays(rng: np.random.Generator) -> Arrays:
    """Names of three users, pooled user by user, and the items by a sort of their cosines."""
    generated, counts = rng.normal(size=(3, 4, 7)), np.array([4, 1, 3])
    source = np.array([0, 1, 1])
    arrays: Arrays = {
        "recall/source_domain": source,
        "recall/generated": generated,
        "recall/generated_count": counts,
    }
    best: dict[str, list[list[int]]] = {}
    for letter, n_items, start in (("a", ITEMS[0], 1), ("b", ITEMS[1], 1 + ITEMS[0])):
        projection, items = rng.normal(size=(HIDDEN, 7)), rng.normal(size=(n_items, HIDDEN))
        pooler = rng.normal(size=(1, HIDDEN))
        pooled = []
        for names, count in zip(generated, counts, strict=True):
            z = [projection @ name for name in names[:count]]
            weights = [math.exp(pooler[0] @ one) for one in z]
            pooled.append(sum(w * one for w, one in zip(weights, z, strict=True)) / sum(weights))
        cosines = [[float(p @ i / np.linalg.norm(p) / np.linalg.norm(i)) for i in items] for p in pooled]
        best[letter] = [[start + i for i in np.argsort(c)[::-1][:3]] for c in cosines]
        arrays |= {
            f"recall/projection_{letter}": projection,
            f"recall/text_items_{letter}": items,
            f"recall/pooler_{letter}": pooler,
            f"recall/pooled_{letter}": np.array(pooled),
        }
    arrays["recall/ids"] = np.array([best["a" if s else "b"][user] for user, s in enumerate(source)])
    return arrays


@pytest.fixture(scope="module")
def made() -> Arrays:
    """A case as the official code would write it, by loops and central differences."""
    rng = np.random.default_rng(3)
    arrays: Arrays = {
        "config.hidden": np.array(HIDDEN),
        "config.heads": np.array(HEADS),
        "config.maxlen": np.array(LENGTH),
        "config.items_a": np.array(ITEMS[0]),
        "config.items_b": np.array(ITEMS[1]),
        "config.blocks": np.array(BLOCKS),
        "config.recall_k": np.array(3),
    }
    shapes = {
        "item_emb.weight": (sum(ITEMS) + 1, HIDDEN),
        "pos_emb.weight": (LENGTH, HIDDEN),
        "last_layernorm.weight": (HIDDEN,),
        "last_layernorm.bias": (HIDDEN,),
    }
    for b in range(BLOCKS):
        shapes |= {
            f"attention_layernorms.{b}.weight": (HIDDEN,),
            f"attention_layernorms.{b}.bias": (HIDDEN,),
            f"attention_layers.{b}.in_proj_weight": (3 * HIDDEN, HIDDEN),
            f"attention_layers.{b}.in_proj_bias": (3 * HIDDEN,),
            f"attention_layers.{b}.out_proj.weight": (HIDDEN, HIDDEN),
            f"attention_layers.{b}.out_proj.bias": (HIDDEN,),
            f"forward_layernorms.{b}.weight": (HIDDEN,),
            f"forward_layernorms.{b}.bias": (HIDDEN,),
            **{f"forward_layers.{b}.conv{i}.weight": (HIDDEN, HIDDEN, 1) for i in (1, 2)},
            **{f"forward_layers.{b}.conv{i}.bias": (HIDDEN,) for i in (1, 2)},
        }
    for name, shape in shapes.items():
        arrays[f"param/{name}"] = rng.normal(0, 0.6, shape)
    arrays["param/item_emb.weight"][0] = 0
    table, parameters = arrays["param/item_emb.weight"], ours(arrays)

    def features() -> list[npt.NDArray[Any]]:
        sizes = {"n_blocks": BLOCKS, "n_heads": HEADS, "max_length": LENGTH}
        return [padded_features(parameters, table, s, padding_keys=True, **sizes) for s in SEQUENCES]

    def left_padded(parts: list[Any], *tail: int) -> npt.NDArray[Any]:
        whole = np.zeros((len(parts), LENGTH, *tail), dtype=np.asarray(parts[0]).dtype)
        for row, part in zip(whole, parts, strict=True):
            row[LENGTH - len(part) :] = part
        return whole

    positives = [rng.integers(1, 12, len(s)) for s in SEQUENCES]
    negatives = [rng.integers(1, 12, len(s)) for s in SEQUENCES]

    def loss() -> float:
        scores = [
            (math.log1p(math.exp(-f @ table[p])), math.log1p(math.exp(f @ table[n])))
            for part, ps, ns in zip(features(), positives, negatives, strict=True)
            for f, p, n in zip(part, ps, ns, strict=True)
        ]
        return sum(a + b for a, b in scores) / len(scores)

    candidates = rng.integers(1, 12, (len(SEQUENCES), 3))
    arrays |= {
        "forward/seq": left_padded(SEQUENCES),
        "forward/pos": left_padded(positives),
        "forward/neg": left_padded(negatives),
        "forward/features": left_padded(features(), HIDDEN),
        "forward/loss": np.array(loss()),
        **{f"forward/grad/{name}": numerical_gradient(loss, arrays[f"param/{name}"]) for name in shapes},
        "predict/candidates": candidates,
        "predict/scores": np.array([table[c] @ f[-1] for c, f in zip(candidates, features(), strict=True)]),
        **contrastive_arrays(rng),
        **recall_arrays(rng),
        "other/loss": np.array(1.0),
    }
    return arrays


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Central differences are good to about 1e-8: the tolerance of the made case allows for that."""
    from conformance_check import check as conformance

    checks = {group: (compare, 1e-6) for group, (compare, _) in conformance._CHECKS.items()}
    monkeypatch.setattr(conformance, "_CHECKS", checks)


@pytest.fixture
def run_with(made: Arrays, tmp_path: Path, coarse: None) -> Callable[..., Result]:
    """Run the command on the made case with some arrays changed, or left out (None)."""

    def run(changes: dict[str, Any] | None = None) -> Result:
        arrays = {k: v for k, v in {**made, **(changes or {})}.items() if v is not None}
        np.savez(tmp_path / "case.npz", **arrays)
        return CliRunner().invoke(main, [str(tmp_path / "case.npz")])

    return run


def test_the_made_case_passes(run_with: Callable[..., Result]) -> None:
    result = run_with()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].endswith("case.npz")
    assert [(line.split()[0], line.split()[-1]) for line in lines[1:5]] == [
        ("forward", "ok"),
        ("predict", "ok"),
        ("contrastive", "ok"),
        ("recall", "ok"),
    ]
    assert [line.split(maxsplit=1) for line in lines[5:]] == [["other", "not checked: no check of that name"]]


@pytest.mark.parametrize(
    ("name", "group", "worst"),
    [
        ("forward/features", "forward", "features"),
        ("forward/loss", "forward", "loss"),
        ("forward/grad/item_emb.weight", "forward", "grad/item_embedding"),
        ("forward/grad/pos_emb.weight", "forward", "grad/position_embedding"),
        ("forward/grad/attention_layers.1.in_proj_weight", "forward", "grad/blocks.1."),
        ("forward/grad/forward_layers.0.conv2.bias", "forward", "grad/blocks.0.outer_bias"),
        ("predict/scores", "predict", "scores"),
        ("contrastive/loss", "contrastive", "loss"),
        ("contrastive/grad_text", "contrastive", "grad_text"),
        ("contrastive/grad_collaborative", "contrastive", "grad_collaborative"),
        ("recall/pooled_a", "recall", "pooled_a"),
        ("recall/pooled_b", "recall", "pooled_b"),
    ],
)
@pytest.mark.parametrize("value", [0.01, math.nan, math.inf])
def test_one_wrong_value_fails_and_is_named(
    made: Arrays, run_with: Callable[..., Result], name: str, group: str, worst: str, value: float
) -> None:
    wrong = made[name].copy()
    wrong.ravel()[-1:] += value  # the last token of the last sequence is a real one
    result = run_with({name: wrong})
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.strip().startswith(group)]
    assert line.endswith("OUT OF TOLERANCE")
    assert f"worst: {worst}" in line
    others = [r for r in result.output.splitlines()[1:5] if r != line]
    assert [r.endswith(" ok") for r in others] == [True, True, True]


def test_another_item_recalled_fails(made: Arrays, run_with: Callable[..., Result]) -> None:
    result = run_with({"recall/ids": made["recall/ids"][:, ::-1]})
    assert result.exit_code == 1
    assert "worst: ids" in result.output


def test_a_nan_in_a_parameter_fails(made: Arrays, run_with: Callable[..., Result]) -> None:
    wrong = made["param/pos_emb.weight"].copy()
    wrong[-1, 0] = math.nan
    result = run_with({"param/pos_emb.weight": wrong})
    assert result.exit_code == 1
    assert result.output.count("OUT OF TOLERANCE") == 2


def refused(result: Result, message: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert result.output.startswith("Error: ")
    assert "case.npz: " in result.output
    assert message in result.output


@pytest.mark.parametrize(
    "name", ["param/pos_emb.weight", "forward/pos", "forward/grad/last_layernorm.bias", "config.heads"]
)
def test_a_missing_array_is_named(run_with: Callable[..., Result], name: str) -> None:
    refused(run_with({name: None}), f"has no array '{name}'")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("param/pos_emb.weight", np.zeros((3, 3))),
        ("config.heads", np.array([1, 2])),
        ("config.heads", np.array(3)),
        ("forward/pos", np.full((3, 4), 99)),
        ("forward/pos", np.zeros((2, 2), dtype=int)),
        ("forward/seq", np.zeros((3, 4), dtype=int)),
        ("predict/candidates", np.zeros((2, 2))),
    ],
)
def test_arrays_that_do_not_fit_are_refused(run_with: Callable[..., Result], name: str, value: Any) -> None:
    refused(run_with({name: value}), "")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut"])
def test_files_that_are_no_archive_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "case.npz").write_bytes(content)
    refused(CliRunner().invoke(main, [str(tmp_path / "case.npz")]), "cannot be read as an .npz file")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "case.npz"
    refused(CliRunner().invoke(main, [str(path)]), "cannot be read as an .npz file")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    refused(CliRunner().invoke(main, [str(path)]), "cannot be read as an .npz file")
    np.savez(path, weights=np.zeros(3))  # nothing in it would be checked: that must not pass
    refused(CliRunner().invoke(main, [str(path)]), "nothing is checked")
    with pytest.raises(DataError, match=r"has none of the groups forward, .*: nothing is checked"):
        check(path)


def test_a_case_without_groups_does_not_pass(made: Arrays, tmp_path: Path) -> None:
    parts = {k: v for k, v in made.items() if k.startswith(("config.", "param/", "other/"))}
    np.savez(tmp_path / "case.npz", **parts)
    refused(CliRunner().invoke(main, [str(tmp_path / "case.npz")]), "nothing is checked")


def test_arrays_that_are_not_read_are_named(run_with: Callable[..., Result]) -> None:
    assert "not read" not in run_with().output
    result = run_with({"forward/grad/surprise": np.zeros(3), "recall/history/0": np.zeros(2)})
    assert result.exit_code == 0
    notes = [line.strip() for line in result.output.splitlines() if "not read" in line]
    assert notes == ["not read: forward/grad/surprise", "not read: recall/history/0"]


@pytest.mark.parametrize("group", ["meta/0", "meta/1", "meta_sgd", "meta_warm"])
def test_another_embedding_of_an_augmented_sequence_fails(tmp_path: Path, group: str) -> None:
    if not (OFFICIAL / "case_1.npz").exists():
        pytest.skip(f"the official case is not at {OFFICIAL / 'case_1.npz'}")
    with np.load(OFFICIAL / "case_1.npz") as archive:
        arrays = dict(archive)
    arrays[f"{group}/augmented/input_embeddings"][-1, -1, 0] += 0.01
    np.savez(tmp_path / "case.npz", **arrays)
    (failed,) = [r for r in check(tmp_path / "case.npz") if not r.passed]
    assert failed.worst == f"{group}/augmented/input_embeddings"


def test_a_changed_byte_gives_no_traceback(made: Arrays, tmp_path: Path, coarse: None) -> None:
    path = tmp_path / "case.npz"
    names = ("config.", "param/", "contrastive/")
    np.savez_compressed(path, **{k: v for k, v in made.items() if k.startswith(names)})
    content = path.read_bytes()
    rng = np.random.default_rng(2)
    n_refused = 0
    for place in rng.integers(0, len(content), 250).tolist():
        changed = bytes([content[place] ^ int(rng.integers(1, 256))])
        path.write_bytes(content[:place] + changed + content[place + 1 :])
        result = CliRunner().invoke(main, [str(path)])
        assert result.exception is None or isinstance(result.exception, SystemExit), place
        n_refused += result.output.startswith("Error: ")
    assert n_refused > 150


def test_one_bad_file_among_good_ones(made: Arrays, tmp_path: Path, coarse: None) -> None:
    np.savez(tmp_path / "good.npz", **made)
    np.savez(tmp_path / "bad.npz", **{**made, "forward/loss": made["forward/loss"] + 1})
    result = CliRunner().invoke(main, [str(tmp_path / n) for n in ("bad.npz", "good.npz")])
    assert result.exit_code == 1
    assert result.output.count("OUT OF TOLERANCE") == 1
    assert "good.npz" in result.output


def test_relative_error_by_hand() -> None:
    assert relative_error([1.0, 2.0], [1.0, 4.0]) == 0.5
    assert relative_error([0.0, 0.5], [0.0, 0.0]) == 0.5
    assert relative_error([], []) == 0
    assert relative_error([1.0], [1.0, 1.0]) == math.inf
    assert math.isnan(relative_error([1.0, math.nan], [1.0, 2.0]))
    assert math.isnan(relative_error([1.0, 2.0], [1.0, math.nan]))
