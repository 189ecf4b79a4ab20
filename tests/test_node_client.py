"""A client of docs/format.md in Node.js, and the standalone graph there, against Python.

``make test-node`` installs what it needs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranked_answer import Answer, assert_same
from weighed_bundle import make_bundle

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.model.ensemble import SASRecEnsemble
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.model.session import OnnxSession
from llmcdsr_tools.export.standalone import export_standalone, run_standalone
from random_bundle import write_random_bundle

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "tests" / "node_client"
Build = Callable[[Bundle, Path], Path]

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js"),
    pytest.mark.skipif(
        not (CLIENT / "node_modules" / "onnxruntime-node").is_dir(),
        reason="make test-node installs onnxruntime-node",
    ),
]


def answers(requests: list[dict[str, Any]], *arguments: Path) -> list[Answer]:
    """What the client answers."""
    done = subprocess.run(
        ["node", CLIENT / "recommend.mjs", *arguments],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    ids = json.loads((arguments[0] / "item_ids.json").read_text(encoding="utf-8"))
    assert all(answer["ids"] == [ids[row - 1] for row in answer["rows"]] for answer in found)
    return [(np.array(a["rows"], np.int64), np.array(a["scores"], np.float32)) for a in found]


def random_requests(recommender: Recommender, n: int) -> list[dict[str, Any]]:
    """Histories of some domains or none, with unknown ids and repeats; one domain, several, all."""
    rng, domains = np.random.default_rng(n), recommender.items.domains
    requests: list[dict[str, Any]] = []
    for number in range(n):
        chosen = rng.permutation(len(domains))[: rng.integers(1, len(domains) + 1)]
        rows = np.concatenate([np.arange(domains[d].start, domains[d].stop) for d in chosen])
        history = [
            recommender.items.ids[row - 1] for row in rng.choice(rows, rng.choice([0, 1, 2, 5, 9, 30, 70]))
        ]
        history += ["no such item"] * (number % 5 == 0)
        asked = [recommender.domains[d] for d in rng.permutation(len(domains))]
        domain = (asked[0], asked[0], asked[: rng.integers(1, len(asked) + 1)], None)[number % 4]
        requests.append({"history": history, "domain": domain, "k": int(rng.choice([1, 10, 3000]))})
    return requests


def expected(recommender: Recommender, request: dict[str, Any]) -> Answer:
    answer = recommender.recommend_batch([request["history"]], domain=request["domain"], k=request["k"])
    found = answer.rows[0] > 0
    return answer.rows[0][found], answer.scores[0][found]


@pytest.fixture(params=["demo", "random", "one", "two", "three", "members"])
def folder(request: pytest.FixtureRequest, build_bundle: Build, tmp_path: Path) -> Path:
    """The shipped bundle; one without pseudo items; those in which everything is weighed."""
    name, path = request.param, tmp_path / request.param
    if name == "demo":
        return ROOT / "models" / "demo"
    if name == "random":
        write_random_bundle(path, [300, 200], hidden=16, max_length=20)
        return path
    bundle = make_bundle({"one": 1, "three": 3}.get(name, 2))
    if name == "members":
        other = SASRecParameters.initial(bundle.parameters.config, np.random.default_rng(1))
        other.item_embedding[0] = 0
        bundle = replace(bundle, parameters=SASRecEnsemble.of([*bundle.parameters.members, other]))
    return build_bundle(bundle, path)


def test_the_client_answers_as_python_does(folder: Path) -> None:
    recommender = Recommender.load(folder)
    requests = random_requests(recommender, 60)
    for request, found in zip(requests, answers(requests, folder), strict=True):
        wanted = expected(recommender, request)
        assert_same(found, wanted)
        if not recommender.items.rows(request["history"])[0].size:  # counts, which are exact: ties are by row
            assert found[0].tolist() == wanted[0].tolist()


def test_the_standalone_graph_answers_the_same_in_node_and_python(folder: Path, tmp_path: Path) -> None:
    graph = tmp_path / "graph.onnx"
    export_standalone(folder, graph)
    recommender, session = Recommender.load(folder), OnnxSession(str(graph), 1)
    seen = {
        d.name: mix.exclude_seen
        for d, mix in zip(recommender.items.domains, recommender.bundle.mix, strict=True)
    }
    requests = random_requests(recommender, 60)
    for request, in_node in zip(requests, answers(requests, folder, graph), strict=True):
        rows, _ = recommender.items.rows(request["history"])
        excluded = np.array(
            [r for r in rows if seen[recommender.items.domain_of_row(r).name]], dtype=np.int64
        )
        domain = request["domain"] or recommender.domains
        names = [domain] if isinstance(domain, str) else domain
        asked = [recommender.domains.index(name) for name in names]
        in_python = run_standalone(session, rows, excluded, asked, request["k"])
        assert_same(in_node, in_python)
        assert_same(in_python, expected(recommender, request))


def test_a_damaged_bundle_and_an_unknown_domain_are_refused(bundle_folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle_folder, tmp_path / "bundle")
    content = bytearray((damaged / "item_vectors.npy").read_bytes())
    content[-1] ^= 1
    (damaged / "item_vectors.npy").write_bytes(content)
    with pytest.raises(AssertionError, match=r"item_vectors\.npy: damaged or changed"):
        answers([], damaged)
    with pytest.raises(AssertionError, match="no such domain: fod"):
        answers([{"history": [], "domain": "fod", "k": 1}], bundle_folder)
