"""The service: bundles swapped under load, errors, limits, and what it leaves alone."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs fastapi: pip install '.[service]'")
pytest.importorskip("uvicorn", reason="the service needs uvicorn: pip install '.[service]'")

from fastapi import HTTPException

from llmcdsr_lite import Recommender, UsageError
from llmcdsr_lite.bundle.folder import CONFIG, ITEM_IDS, Bundle
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.recall import RecallNetwork
from random_bundle import write_random_bundle
from service.app import MAX_BODY, MAX_FILTER, MAX_HISTORY, MAX_K, MAX_TITLES, MAX_USERS, Service, create_app
from serving import APP, TOKEN, Reply, Server, drive, make_bodies, own_answers, serving

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"
COFFEE = "g-coffee-dark-roast-whole-bean"
LINUX = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory is read from /proc")


def no_writes() -> None:
    """As on a read-only file system: not one byte can be written to a file."""
    import resource  # POSIX alone

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo bundle, and a copy with another byte in it."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(DEMO, root / "demo")
    damaged = shutil.copytree(DEMO, root / "damaged")
    (damaged / ITEM_IDS).write_bytes((damaged / ITEM_IDS).read_bytes().replace(b"g-", b"x-", 1))
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that cannot write, with nothing but empty folders to write to."""
    empty = tmp_path_factory.mktemp("empty")
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(empty), "TMPDIR": str(empty)}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with serving(root, "demo", cwd=empty, env=environment, preexec_fn=no_writes) as server:
        yield server
    assert server.process.returncode in (0, -15)
    assert list(empty.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@LINUX
@pytest.mark.slow
def test_bundles_are_swapped_under_load(tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "first", (10_000, 5_000), mix=True, seed=1)
    write_random_bundle(tmp_path / "second", (9_000, 6_000), mix=True, seed=2)
    bodies = make_bodies(tmp_path / "first", 24)
    bundles = {name: own_answers(tmp_path / name, bodies) for name in ("first", "second")}
    assert all(one != other for one, other in zip(*(b.answers for b in bundles.values()), strict=True))
    with serving(tmp_path, "first") as server:
        load = drive(server, bodies, bundles, n_swaps=8, n_clients=3, pause=0.1)
        health = server.ask("GET", "/health").body
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert load.failures == []
    assert len(load.swaps) == 8
    assert len(load.requests) > 100
    assert len(load.latencies()[0]) > 20  # some of each: swaps did meet requests
    assert health == {"name": "first", "bundle": bundles["first"].bundle, "items": {"a": 10_000, "b": 5_000}}
    assert str(tmp_path / "first") in maps
    assert str(tmp_path / "second") not in maps
    # five swaps later; each bundle that stays is 28 MB
    assert min(load.memory[6:]) - min(load.memory[1:4]) < 50


def test_a_replaced_bundle_is_closed_after_the_last_request_that_holds_it(root: Path) -> None:
    service = Service(root, "demo")
    with service.hold() as one, service.hold() as other:
        assert one is other is service.current
        service.swap(None)
        assert service.current is not one
        expected = Recommender.load(DEMO).recommend([COFFEE], k=3)
        assert one.recommender.recommend([COFFEE], k=3) == expected
    with pytest.raises(UsageError, match="was closed"):
        one.recommender.recommend([COFFEE])
    with service.hold() as new:
        assert new.recommender.recommend([COFFEE], k=3) == expected
    unused = service.current
    service.swap("demo")
    with pytest.raises(UsageError, match="was closed"):
        unused.recommender.recommend([COFFEE])


def test_one_swap_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(root, "demo")
    began, go_on, load = threading.Event(), threading.Event(), Recommender.load

    def slow(*arguments: Any, **options: Any) -> Recommender:
        began.set()
        assert go_on.wait(60)
        return load(*arguments, **options)

    monkeypatch.setattr(Recommender, "load", slow)
    swapping = threading.Thread(target=service.swap, args=("demo",))
    before = service.current
    swapping.start()
    assert began.wait(60)
    with pytest.raises(HTTPException, match="another bundle is being loaded"):
        service.swap("demo")
    assert service.current is before
    go_on.set()
    swapping.join()
    assert service.current is not before
    service.swap("demo")  # and the way is free again


def test_work_is_not_done_on_the_event_loop(root: Path) -> None:
    routes = {route.path: route.endpoint for route in create_app(Service(root, "demo")).routes}  # type: ignore[attr-defined]
    assert not inspect.iscoroutinefunction(routes["/recommend"])
    assert not inspect.iscoroutinefunction(routes["/reload"])


def test_answers_are_those_of_a_recommender(server: Server) -> None:
    body = {"users": [{"history": [COFFEE, "gone", 7]}, {"history": []}], "domain": "kitchenware", "k": 3}
    body |= {"exclude": ["k-coffee-descaler-tablets-espresso-machines", "sold out"], "exclude_seen": True}
    reply = server.ask("POST", "/recommend", body)
    assert reply.status == 200
    with Recommender.load(DEMO) as recommender:
        settings = {"domain": "kitchenware", "k": 3, "exclude": body["exclude"], "exclude_seen": True}
        own = recommender.recommend_batch([[COFFEE, "gone", "7"], []], **settings)
        assert reply.body == {
            "bundle": recommender.bundle.hashes[CONFIG],
            "answers": [
                {"items": own.to_dicts()[0], "unknown_items": ["gone", "7"], "fallback": False},
                {"items": own.to_dicts()[1], "unknown_items": [], "fallback": True},
            ],
            "unknown_filter_items": ["sold out"],
        }


def test_titles_of_items_stand_for_what_is_looked_for(server: Server) -> None:
    with Recommender.load(DEMO) as recommender:
        title = recommender.items.titles[recommender.items.row(COFFEE) - 1]
        own = recommender.recommend([], domain="kitchenware", pseudo=[title], k=5)
    body = {"users": [{"titles": [title]}], "domain": ["kitchenware"], "k": 5}
    (answer,) = server.ask("POST", "/recommend", body).body["answers"]
    assert [item["id"] for item in answer["items"]] == [item.id for item in own]


def test_any_text_with_an_encoder(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
) -> None:
    from tiny_encoder import E, make_tiny_model, write_encoder

    encoder = write_encoder(tmp_path / "encoder", make_tiny_model())
    assert recall_network.projections is not None
    network = replace(recall_network, projections=np.ascontiguousarray(recall_network.projections[..., :E]))
    mix = (DomainMix(named=ExpertWeights(similar=2.0)),) * 2
    build_bundle(replace(bundle_data, recall=network, mix=mix), tmp_path / "small")
    body = {"users": [{"titles": ["a red pan"]}, {"history": ["f1"], "titles": ["the blue pot"]}]}
    body |= {"domain": "kitchen", "k": 4}
    with serving(tmp_path, "small", env={"LLMCDSR_ENCODER": str(encoder)}) as server:
        answers = server.ask("POST", "/recommend", body).body["answers"]
    with Recommender.load(tmp_path / "small", encoder=encoder) as recommender:
        for user, answer in zip(body["users"], answers, strict=True):
            own = recommender.recommend(user.get("history", ()), domain="kitchen", pseudo=user["titles"], k=4)
            assert [item["id"] for item in answer["items"]] == [item.id for item in own]


def many(n: int) -> list[str]:
    return ["g"] * n


def one_user(**settings: Any) -> dict[str, Any]:
    return {"users": [{"history": [COFFEE]}], **settings}


FAULTS = {
    "no JSON": (b'{"users": [', 422, "json_invalid", None),
    "not UTF-8": (b'{"users\xff', 400, "http_400", None),
    "nested": (b"[" * 100_000, 400, "http_400", None),
    "half a character": (b'{"users": [{}], "domain": "\\ud800"}', 422, "string_unicode", "domain.0"),
    "too long": (b" " * (MAX_BODY + 1), 413, "http_413", None),
    "no users": ({}, 422, "missing", "users"),
    "nobody": ({"users": []}, 422, "too_short", "users"),
    "users": ({"users": [{}] * (MAX_USERS + 1)}, 422, "too_long", "users"),
    "history": ({"users": [{}, {"history": many(MAX_HISTORY + 1)}]}, 422, "too_long", "users.1.history"),
    "titles": ({"users": [{"titles": many(MAX_TITLES + 1)}]}, 422, "too_long", "users.0.titles"),
    "an id": ({"users": [{"history": ["g" * 501]}]}, 422, "string_too_long", "users.0.history.0"),
    "no id": ({"users": [{"history": [True]}]}, 422, "string_type", "users.0.history.0"),
    "one string": ({"users": [{"history": COFFEE}]}, 422, "list_type", "users.0.history"),
    "k": (one_user(k=MAX_K + 1), 422, "less_than_equal", "k"),
    "k of 0": (one_user(k=0), 422, "greater_than_equal", "k"),
    "k of true": (one_user(k=True), 422, "int_type", "k"),
    "allow": (one_user(allow=many(MAX_FILTER + 1)), 422, "too_long", "allow"),
    "exclude": (one_user(exclude=many(MAX_FILTER + 1)), 422, "too_long", "exclude"),
    "exclude_seen": (one_user(exclude_seen="no"), 422, "bool_type", "exclude_seen"),
    "misspelt": (one_user(domian="x"), 422, "extra_forbidden", "domian"),
    "no domain": (one_user(domain=[]), 422, "too_short", "domain"),
    "unknown domain": (one_user(domain="kitchenwear"), 422, "UsageError", "domain"),
    "text": ({"users": [{"titles": ["a text"]}], "domain": "kitchenware"}, 422, "UsageError", "users"),
}


@pytest.mark.parametrize(("body", "status", "code", "field"), FAULTS.values(), ids=FAULTS)
def test_faults_are_told(server: Server, body: Any, status: int, code: str, field: str | None) -> None:
    reply = server.ask("POST", "/recommend", body)
    assert reply.status == status, reply.body
    assert reply.body.keys() == {"errors"}
    (error,) = reply.body["errors"]
    assert error.pop("message")
    assert error == {"code": code, "field": field}


def test_the_largest_that_is_allowed(server: Server) -> None:
    body = {"users": [{"history": many(MAX_HISTORY)}] * MAX_USERS, "k": MAX_K, "exclude": many(MAX_FILTER)}
    assert len(json.dumps(body)) < MAX_BODY
    reply = server.ask("POST", "/recommend", body)
    assert [len(answer["items"]) for answer in reply.body["answers"]] == [MAX_K] * MAX_USERS


def test_messages_of_the_package_and_many_errors(server: Server) -> None:
    (error,) = server.ask("POST", "/recommend", one_user(domain="kitchenwear")).body["errors"]
    assert "did you mean 'kitchenware'?" in error["message"]
    assert len(server.ask("POST", "/recommend", {"users": [{"history": [{}] * 500}]}).body["errors"]) == 10


def test_other_paths_and_methods(server: Server) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/recommend", 405)):
        reply = server.ask(method, path)
        assert (reply.status, reply.body["errors"][0]["code"]) == (status, f"http_{status}")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("damaged", "BundleError"),
        ("missing", "BundleError"),
        ("../root/demo", "string_pattern_mismatch"),
        ("..", "string_pattern_mismatch"),
        ("demo/", "string_pattern_mismatch"),
        ("demo\n", "string_pattern_mismatch"),
        (str(DEMO), "string_pattern_mismatch"),
    ],
)
def test_what_cannot_be_loaded_changes_nothing(server: Server, name: str, code: str) -> None:
    before = server.ask("GET", "/health")
    reply = server.ask("POST", "/reload", {"name": name})
    (error,) = reply.body["errors"]
    assert (reply.status, error["code"], error["field"]) == (422, code, "name")
    assert server.ask("GET", "/health") == before
    assert server.ask("POST", "/recommend", one_user()).status == 200


def test_a_folder_that_was_replaced_is_read_again(bundle_folder: Path, root: Path, server: Server) -> None:
    assert server.ask("POST", "/reload", {}) == server.ask("GET", "/health")
    moved = root / "demo"
    kept = moved.rename(root / ".kept")
    try:
        shutil.copytree(bundle_folder, moved)
        reply = server.ask("POST", "/reload", {})
        assert reply.body["items"] == {"food": 12, "kitchen": 18}
        assert server.ask("POST", "/recommend", {"users": [{"history": ["f1"]}]}).status == 200
    finally:
        shutil.rmtree(moved)
        kept.rename(moved)
    assert server.ask("POST", "/reload", {"name": "demo"}).status == 200


def test_who_may_reload(root: Path, server: Server) -> None:
    assert server.ask("POST", "/reload", {}, token=f"{TOKEN}s").status == 401
    with serving(root, "demo", env={"LLMCDSR_RELOAD_TOKEN": ""}) as other:
        assert other.ask("POST", "/reload", {}, token="").status == 403


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set LLMCDSR_ROOT to"),
        ({"LLMCDSR_ROOT": "nowhere", "LLMCDSR_BUNDLE": "b"}, "is nowhere/b a bundle?"),
    ],
)
def test_a_start_that_fails_says_why(settings: dict[str, str], message: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMCDSR_")}
    command = [sys.executable, "-m", "uvicorn", "--factory", "app:from_environment", "--app-dir", str(APP)]
    done = subprocess.run(
        command, env={**environment, **settings}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def start_block(page: Path) -> str:
    """The commands of a page that start the service, and what comes after."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (block,) = (one for one in blocks if "uvicorn --factory" in one)
    return str(block)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands call curl")
def test_commands_of_the_readme(root: Path) -> None:
    block = start_block(APP / "README.md")
    (token,) = re.findall(r"LLMCDSR_RELOAD_TOKEN=(\w+)", block)
    with serving(root, "demo", env={"LLMCDSR_RELOAD_TOKEN": token}) as server:
        curl = block[block.index("curl") :].replace("localhost:8000", f"127.0.0.1:{server.port}")
        done = subprocess.run(
            ["sh", "-ec", curl.replace("\ncurl", "\necho; curl")], capture_output=True, check=True
        )
    replies = [Reply(200, json.loads(line)) for line in done.stdout.splitlines()]
    assert [len(answer["items"]) for answer in replies[0].body["answers"]] == [3, 3]
    assert replies[1] == replies[2] == Reply(200, {**replies[2].body, "name": "demo"})


def test_every_text_starts_it_in_the_same_way() -> None:
    dockerfile = (APP / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)
    start = ["uvicorn", "--factory", "app:from_environment", "--app-dir"]
    assert [Path(part).name for part in json.loads(command)][:4] == start
    for page in (APP / "README.md", ROOT / "docs" / "serving.md"):
        lines = start_block(page).splitlines()
        (line,) = (one for one in lines if "uvicorn --factory" in one)
        assert shlex.split(line)[-5:] == [*start, "examples/service"]
    copied = re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
    assert len(copied) == 4
    assert all((ROOT / source).exists() for line in copied for source in line.split()[:-1])
