"""The standalone graph, run by onnxruntime alone, against loops over all items and `Recommender` on NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from ranked_answer import Answer, assert_same
from weighed_bundle import Naive, make_bundle

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import BundleError, DataError
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.ensemble import SASRecEnsemble
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.export import standalone
from llmcdsr_tools.export.standalone import export_standalone
from llmcdsr_tools.export.standalone_graph import build_standalone

DEMO = Path(__file__).parents[3] / "models" / "demo"
Build = Callable[[Bundle, Path], Path]


class Graph:
    """A standalone graph in a session, as any user of ONNX would run it."""

    def __init__(self, model: bytes | str) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def __call__(
        self, history: Sequence[int], excluded: Sequence[int] = (), domains: Sequence[int] = (), k: int = 10
    ) -> Answer:
        inputs = {"history": history, "excluded": excluded, "domains": domains, "k": [k]}
        arrays = {name: np.array(value, dtype=np.int64) for name, value in inputs.items()}
        rows, scores = self.session.run(["rows", "scores"], arrays)
        assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
        return rows, scores


def expected(
    recommender: Recommender, history: Sequence[int], excluded: Sequence[int], domains: Sequence[int], k: int
) -> Answer:
    """What `Recommender` answers, as rows."""
    ids = recommender.items.ids
    answer = recommender.recommend_batch(
        [[ids[row - 1] for row in history]],
        domain=[recommender.domains[index] for index in domains] or None,
        k=k,
        exclude_seen=False,
        exclude=[ids[row - 1] for row in excluded],
    )
    found = answer.rows[0] > 0
    return answer.rows[0][found], answer.scores[0][found]


@cache
def weighed(n_domains: int, n_members: int) -> tuple[Bundle, Recommender, Graph]:
    """A bundle in which everything is weighed, by number of domains and members."""
    bundle = make_bundle(n_domains)
    if n_members > 1:
        members: list[SASRecParameters] = [*bundle.parameters.members]
        for seed in range(1, n_members):
            other = SASRecParameters.initial(bundle.parameters.config, np.random.default_rng(seed))
            other.item_embedding[1:] = np.random.default_rng(-seed + 99).normal(
                size=(len(bundle.catalogue), 8)
            )
            other.item_embedding[0] = 0
            members.append(other)
        bundle = replace(bundle, parameters=SASRecEnsemble.of(members))
    model = build_standalone(bundle)
    onnx.checker.check_model(model, full_check=True)
    return bundle, Recommender(bundle, NumpyBackend(bundle.parameters), "exact"), Graph(model)


@pytest.mark.parametrize(("n_domains", "n_members"), [(1, 1), (1, 2), (2, 1), (2, 3), (3, 1), (3, 2), (5, 1)])
@settings(max_examples=40)
@given(data=st.data())
def test_any_request_is_answered_as_by_the_recommender(
    n_domains: int, n_members: int, data: st.DataObject
) -> None:
    bundle, recommender, graph = weighed(n_domains, n_members)
    rows = st.integers(1, len(bundle.catalogue))
    history = data.draw(st.lists(rows, max_size=30))
    if data.draw(st.booleans()):  # without items of some domains, so that pseudo items are recalled
        kept = data.draw(st.sets(st.integers(0, n_domains - 1)))
        history = [row for row in history if int(bundle.catalogue.domain_indices(np.array(row))) in kept]
    excluded = data.draw(st.lists(rows, max_size=8) | st.just(history))
    domains = data.draw(st.lists(st.integers(0, n_domains - 1), max_size=n_domains))
    k = data.draw(st.integers(1, 40))
    assert_same(graph(history, excluded, domains, k), expected(recommender, history, excluded, domains, k))


@pytest.mark.parametrize("n_domains", [1, 2, 3])
def test_scores_are_those_of_loops(n_domains: int) -> None:
    bundle, _, graph = weighed(n_domains, 1)
    naive, rng = Naive(bundle), np.random.default_rng(5)
    for domain in (None, *bundle.catalogue.domains):
        start, stop = (1, len(bundle.catalogue) + 1) if domain is None else (domain.start, domain.stop)
        for length in (1, 4, 9):
            history = rng.integers(start, stop, length).tolist()
            for asked in ([0], [n_domains - 1], list(range(n_domains))):
                scores = naive.scores(history, sorted(set(asked)))
                rows, found = graph(history, history, asked, 50)
                best = sorted(set(scores) - set(history), key=lambda row: -scores[row])
                assert rows.tolist() == best
                np.testing.assert_allclose(found, [scores[row] for row in best], rtol=0, atol=1e-4)


def test_the_shipped_model_answers_the_same() -> None:
    recommender, rng = Recommender.load(DEMO), np.random.default_rng(6)
    graph = Graph(build_standalone(recommender.bundle))
    domains = recommender.items.domains
    for length in (0, 1, 2, 20, 49, 50, 51, 80):
        for start, stop in ((1, len(recommender.items) + 1), *((d.start, d.stop) for d in domains)):
            history = rng.integers(start, stop, length).tolist()
            for asked in ([0], [1], [0, 1], []):
                for k in (1, 10, 2000):
                    wanted = expected(recommender, history, history, asked, k)
                    assert_same(graph(history, history, asked, k), wanted)


@pytest.mark.parametrize("n_recalled", [1, 3, 6, 50])
def test_inserted_items_of_any_number(bundle_data: Bundle, recall_network: Any, n_recalled: int) -> None:
    """More than there are in the domain, or than the model looks back on; items that say nothing."""
    inserted = DomainMix(cold=ExpertWeights(inserted=1.0), n_recalled=n_recalled)
    bundle = replace(bundle_data, recall=recall_network, mix=(inserted, inserted))
    recommender = Recommender(bundle, NumpyBackend(bundle.parameters), "exact")
    graph = Graph(build_standalone(bundle))
    for history in ([1], [13], [1, 1, 13], [2, 3], [2, 1, 4, 5, 6, 7, 8, 9], [14, 15], [14] * 7, [2, 14]):
        for asked in ([0], [1], [0, 1]):
            assert_same(graph(history, [], asked, 30), expected(recommender, history, [], asked, 30))


def test_ties_are_by_row_and_vectors_that_repeat_score_the_same(bundle_data: Bundle) -> None:
    parameters = SASRecParameters(
        bundle_data.parameters.config,
        np.array(bundle_data.item_vectors)[[0, *([1, 2, 3] * 10)]],
        bundle_data.parameters.dense,
    )
    bundle = replace(bundle_data, parameters=parameters)
    graph = Graph(build_standalone(bundle))
    recommender = Recommender(bundle, NumpyBackend(parameters), "exact")
    for history in ([1], [2, 17], [30, 4, 5]):
        for k in (1, 2, 7, 25):
            rows, scores = graph(history, [], [], k)
            assert rows.tolist() == expected(recommender, history, [], [], k)[0].tolist()
            assert len(set(scores.tolist())) == -(-k // 10)


def test_scores_that_float32_cannot_tell_apart_are_ranked_by_exact_ones(bundle_data: Bundle) -> None:
    rng, n_items, hidden = np.random.default_rng(3), 500, 64
    config = replace(bundle_data.parameters.config, n_items=n_items, hidden=hidden)
    parameters = SASRecParameters.initial(config, rng)
    parameters.norm_weight[:] = 0
    parameters.norm_bias[:] = rng.normal(size=hidden)  # every user's representation
    user = parameters.norm_bias.astype(np.float64)
    vectors = 100 * rng.normal(size=(n_items, hidden))
    vectors -= np.outer(vectors @ user - 1, user) / (user @ user)  # now all score 1, but for rounding
    parameters.item_embedding[1:] = vectors
    ids = [str(n) for n in range(n_items)]
    catalogue = Catalogue.from_sizes(ids, ids, ("all",), (n_items,))
    bundle = Bundle(catalogue, parameters, np.ones(n_items + 1, dtype=np.int64))
    rows, scores = Graph(build_standalone(bundle))([1, 2], k=20)
    exact = (parameters.item_embedding[1:].astype(np.float64) * user).sum(axis=1).astype(np.float32)
    best = np.argsort(-exact, kind="stable")[:20]
    assert rows.tolist() == (best + 1).tolist()
    np.testing.assert_array_equal(scores, exact[best])
    plain = np.argsort(-(parameters.item_embedding[1:] @ parameters.norm_bias), kind="stable")[:20]
    assert plain.tolist() != best.tolist()  # or this test tests nothing


def test_what_is_no_item_row_is_as_if_it_were_not_there() -> None:
    bundle, _, graph = weighed(3, 1)
    n = len(bundle.catalogue)
    wanted = graph([3, 9, 14], [5, 6], [1], 5)
    found = graph([0, 0, 3, n + 1, 9, -1, 14], [0, 5, -7, 6, 5, 2**40], [1, 1], 5)
    assert found[0].tolist() == wanted[0].tolist()
    np.testing.assert_array_equal(found[1], wanted[1])


def test_the_edges_of_a_request() -> None:
    bundle, recommender, graph = weighed(2, 1)
    n = len(bundle.catalogue)
    whole = graph([3, 9], [], [], n)
    assert sorted(whole[0].tolist()) == list(range(1, n + 1))
    more = graph([3, 9], [], [], 10**9)
    assert more[0].tolist() == whole[0].tolist()
    for rows in (graph([3], range(1, n + 1))[0], graph([3], k=0)[0], graph([3], k=-4)[0]):
        assert rows.shape == (0,)
    rows, _ = graph([3], range(2, n + 1), k=5)
    assert rows.tolist() == [1]
    assert graph([3], [], [1, 0])[0].tolist() == graph([3])[0].tolist()
    for domains in ([2], [-1], [0, 7]):
        with pytest.raises(Exception, match="out of data bounds"):
            graph([3], [], domains)
    shares = graph([], [], [0], 99)
    counts = bundle.item_counts[bundle.catalogue.domains[0].start : bundle.catalogue.domains[0].stop]
    assert shares[1].sum() == pytest.approx(1)
    assert shares[1].tolist() == pytest.approx(sorted(counts / counts.sum(), reverse=True))
    assert expected(recommender, [], [], [0], 99)[0].tolist() == shares[0].tolist()


def test_a_bundle_without_a_mix_has_no_nodes_of_one(bundle_data: Bundle) -> None:
    model = onnx.load_from_string(build_standalone(bundle_data))
    names = {node.name.split(".")[0] for node in model.graph.node}
    assert not names & {"mix", "next", "repeat", "recent", "recall", "names", "insert", "offset"}
    assert all(i.data_location != onnx.TensorProto.EXTERNAL for i in model.graph.initializer)


def test_its_metadata_say_which_rows_domains_have(bundle_folder: Path, tmp_path: Path) -> None:
    export_standalone(bundle_folder, tmp_path / "graph.onnx")
    metadata = Graph(str(tmp_path / "graph.onnx")).session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["domains"]) == [
        {"name": "food", "start": 1, "stop": 13, "exclude_seen": True},
        {"name": "kitchen", "start": 13, "stop": 31, "exclude_seen": True},
    ]
    assert metadata["bundle_config_sha256"] == read_bundle(bundle_folder).hashes["config.json"]


def test_items_that_were_added_are_in_it(build_bundle: Build, tmp_path: Path) -> None:
    before = Recommender.load(build_bundle(make_bundle(2), tmp_path / "before"), backend="numpy")
    rng = np.random.default_rng(4)
    before.add_items([NewItem(f"new{n}", "food", embedding=rng.normal(size=4)) for n in range(3)]).save(
        tmp_path / "grown"
    )
    export_standalone(tmp_path / "grown", tmp_path / "graph.onnx")
    graph, recommender = Graph(str(tmp_path / "graph.onnx")), Recommender.load(tmp_path / "grown")
    for history in ([9], [10, 2, 18], [18]):
        assert_same(graph(history, [], [], 30), expected(recommender, history, [], [], 30))


def test_a_graph_that_answers_otherwise_is_not_written(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_another(bundle: Bundle) -> bytes:
        parameters = SASRecParameters(
            bundle.parameters.config, np.array(bundle.item_vectors) * 1.01, bundle.parameters.dense
        )
        return build_standalone(replace(bundle, parameters=parameters))

    monkeypatch.setattr(standalone, "build_standalone", of_another)
    with pytest.raises(BundleError, match=r"the standalone graph gives the scores .* it is not written"):
        export_standalone(bundle_folder, tmp_path / "graph.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_no_onnx_file_holds_is_refused(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(build_standalone(read_bundle(bundle_folder)))
    monkeypatch.setattr(standalone, "MAX_BYTES", size - 1)
    with pytest.raises(DataError, match=r"graph.onnx: would have .* bytes, more than the"):
        export_standalone(bundle_folder, tmp_path / "graph.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command(bundle_folder: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "graph.onnx")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["export", *arguments])

    assert run(str(bundle_folder), "--standalone", output).exit_code == 0
    assert Graph(output)([1], k=3)[0].shape == (3,)
    refused = run(str(bundle_folder), "--standalone", output)
    assert (refused.exit_code, "graph.onnx: exists already" in refused.output) == (1, True)
    assert run(str(bundle_folder), "--standalone", output, "--overwrite").exit_code == 0
    for arguments, message in (
        ((str(bundle_folder),), "is a bundle already; name its graph: --standalone FILE"),
        ((str(bundle_folder), "-o", "other", "--standalone", "x"), "--output is for a run"),
        ((str(bundle_folder), "--seed", "0", "--standalone", "x"), "--seed is for a run"),
        ((str(tmp_path), "--standalone", "x"), "Missing option '-o' / '--output'"),
    ):
        done = run(*arguments)
        assert (done.exit_code, message in done.output) == (2, True), done.output
