"""A recommender inside an application: threads, forks, spawned processes, closing, and no trace elsewhere."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite import BundleError, Recommender, UsageError
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.text.encoder import TextEncoder

BACKENDS = ["onnx", "numpy"]
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(scope="module")
def folder(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle whose two domains take pseudo items in different ways."""
    similar, inserted = ExpertWeights(similar=2.0), ExpertWeights(inserted=1.0)
    mix = DomainMix(cold=similar, named=inserted), DomainMix(cold=inserted, named=similar, n_recalled=3)
    bundle = replace(bundle_data, recall=recall_network, mix=mix)
    return build_bundle(bundle, tmp_path_factory.mktemp("embedding") / "bundle")


def requests(n: int) -> list[dict[str, Any]]:
    """Requests of all kinds."""
    rng = np.random.default_rng(n)
    ids = [f"f{i}" for i in range(12)] + [f"k{i}" for i in range(18)]
    made = []
    for number in range(n):
        source = ids[:12] if number % 3 == 0 else ids[12:] if number % 3 == 1 else ids
        one: dict[str, Any] = {"history": rng.choice(source, rng.integers(0, 9)).tolist(), "k": 5}
        one["domain"] = (None, "food", "kitchen")[number % 3 if number % 2 else (number + 1) % 3]
        one["explain"] = number % 4 == 0
        if number % 5 == 0:
            one["exclude"] = rng.choice(ids, 3).tolist()
        if number % 7 == 0:
            one["allow"] = rng.choice(ids, 9).tolist()
        if number % 6 == 1 and one["domain"] is not None:
            one["pseudo"] = [f"Café beans No. {number % 11 + 1}", "k3"]
        made.append(one)
    return made


def answer(recommender: Recommender, request: dict[str, Any]) -> str:
    """Everything that a request gives, to the last bit."""
    one = recommender.recommend(**request)
    arguments = {name: value for name, value in request.items() if name not in ("history", "pseudo")}
    batch = recommender.recommend_batch([request["history"], ["f1", "k2"], []], **arguments)
    near = recommender.similar("f3", 4, domain=request["domain"])
    numbers = [batch.scores.tobytes().hex(), batch.rows.tolist(), batch.fallback.tolist()]
    return repr((one, near, numbers, batch.explanations))


def answers(recommender: Recommender, n: int) -> list[str]:
    return [answer(recommender, request) for request in requests(n)]


@pytest.mark.parametrize(
    ("backend", "threads", "search"),
    [
        ("onnx", 1, "auto"),
        pytest.param("onnx", 2, "auto", marks=pytest.mark.slow),
        ("numpy", 1, "auto"),
        ("onnx", 1, "hnsw"),
    ],
)
def test_eight_threads_get_the_answers_of_one(folder: Path, backend: Any, threads: int, search: Any) -> None:
    if search == "hnsw":
        pytest.importorskip("hnswlib")
    n = 20
    alone = answers(Recommender.load(folder, backend=backend, threads=threads, search=search), n)
    shared = Recommender.load(
        folder, backend=backend, threads=threads, search=search
    )  # with nothing lazy yet

    def work(worker: int) -> dict[int, str]:
        order = np.random.default_rng(worker).permutation(n).tolist()
        return {i: answer(shared, requests(n)[i]) for i in order}

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, range(8)):
            assert [found[i] for i in range(n)] == alone


def in_child(work: Callable[[], Any], seconds: float = 30) -> Any:
    """What `work` returns in the child of a fork, which ends without clean-up, as multiprocessing's do."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    status = wait(child, seconds)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    assert status == 0
    return json.loads(content)


def wait(child: int, seconds: float) -> int:
    """Exit status of a child; it is killed if it hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"the child hangs: no end after {seconds} s")


@FORK
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("backend", "threads", "search"),
    [("onnx", 1, "auto"), ("onnx", 2, "auto"), ("numpy", 1, "auto"), ("onnx", 2, "hnsw")],
)
def test_after_a_fork_the_child_answers_as_the_parent(
    folder: Path, backend: Any, threads: int, search: Any
) -> None:
    if search == "hnsw":
        pytest.importorskip("hnswlib")
    recommender = Recommender.load(folder, backend=backend, threads=threads, search=search)
    expected = answers(recommender, 12)
    for _ in range(3):
        assert in_child(lambda: answers(recommender, 12)) == expected
    assert in_child(lambda: in_child(lambda: answers(recommender, 12))) == expected  # and its own child
    assert answers(recommender, 12) == expected


@FORK
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_other_threads_are_inside_the_session(folder: Path) -> None:
    recommender = Recommender.load(folder, threads=2)
    expected = answers(recommender, 3)
    done = False

    def keep_busy() -> None:
        while not done:
            recommender.recommend_batch([["f1", "k2"] * 3] * 64)

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(keep_busy) for _ in range(2)]
        try:
            for _ in range(8):
                assert in_child(lambda: answers(recommender, 3)) == expected
        finally:
            done = True
    for one in busy:
        one.result()


@FORK
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("used", [True, False])
def test_a_child_can_drop_the_recommender(folder: Path, used: bool) -> None:
    """Taking apart the parent's session would wait for threads that the child does not have."""
    holder = [Recommender.load(folder, threads=2)]
    expected = answers(holder[0], 2)

    def drop() -> bool:
        same = not used or answers(holder[0], 2) == expected
        holder.clear()
        return same

    for _ in range(5):
        assert in_child(drop)


def test_spawned_processes_load_the_bundle_again(folder: Path) -> None:
    recommender = Recommender.load(folder, backend="numpy", search="exact")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(answer, [(recommender, request) for request in requests(4)])
    assert found == answers(recommender, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pickling_keeps_the_settings_and_not_the_arrays(
    folder: Path, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    recommender = Recommender.load(folder.name, backend=backend, threads=2, search="exact")
    pickled = pickle.dumps(recommender)
    assert len(pickled) < 3000
    monkeypatch.chdir("/")  # a path relative to another place would not do
    again = pickle.loads(pickled)
    assert (again.backend_name, again.search_name) == (backend, "exact")
    assert answers(again, 6) == answers(recommender, 6)


def test_pickling_notices_another_bundle_in_its_place(
    folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(folder, tmp_path / "bundle")
    pickled = pickle.dumps(Recommender.load(mine, backend="numpy"))
    shutil.rmtree(mine)
    with pytest.raises(BundleError, match=r"config\.json: is missing"):
        pickle.loads(pickled)
    shutil.copytree(bundle_folder, mine)
    with pytest.raises(BundleError, match="is no longer the bundle that was pickled"):
        pickle.loads(pickled)


def test_what_has_no_folder_cannot_be_pickled(folder: Path, bundle_data: Bundle) -> None:
    loaded = Recommender.load(folder, backend="numpy")
    made = Recommender(loaded.bundle, loaded._ranking.backend)
    with pytest.raises(UsageError, match="loaded from a folder, its encoder too"):
        pickle.dumps(made)
    encoder = object.__new__(TextEncoder)
    encoder.dimension = 7
    with pytest.raises(UsageError, match="loaded from a folder, its encoder too"):
        pickle.dumps(Recommender.load(folder, backend="numpy", encoder=encoder))


CALLS: dict[str, Callable[[Recommender], object]] = {
    "recommend": lambda r: r.recommend(["f1"]),
    "recommend nothing": lambda r: r.recommend([]),
    "explain": lambda r: r.recommend(["f1"], domain="kitchen", explain=True, pseudo=["k1"]),
    "recommend_batch": lambda r: r.recommend_batch([["f1"]]),
    "recommend_batch of nobody": lambda r: r.recommend_batch([]),
    "similar": lambda r: r.similar("f1"),
    "items": lambda r: r.items,
    "domains": lambda r: r.domains,
    "bundle": lambda r: r.bundle,
    "backend_name": lambda r: r.backend_name,
    "search_name": lambda r: r.search_name,
    "add_items": lambda r: r.add_items([]),
    "save": lambda r: r.save("nowhere"),
    "pickle": pickle.dumps,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_works_after_closing(folder: Path, call: Callable[[Recommender], object]) -> None:
    with Recommender.load(folder) as recommender:
        recommender.similar("f1")
    recommender.close()  # twice is no mistake
    with pytest.raises(UsageError, match="this recommender was closed"):
        call(recommender)


def test_answers_outlive_the_recommender(folder: Path) -> None:
    with Recommender.load(folder) as recommender:
        found = recommender.recommend_batch([["f1", "k2"]], k=4, explain=True)
        before = (found.scores.copy(), found.ids.copy())
    assert np.array_equal(found.scores, before[0])
    assert np.array_equal(found.ids, before[1])


def test_closing_while_threads_are_at_it(folder: Path) -> None:
    """A call under way gets its answer or the error, and nothing crashes."""
    expected = answers(Recommender.load(folder, threads=2), 2)
    for _ in range(5):
        recommender = Recommender.load(folder, threads=2)

        def work(recommender: Recommender = recommender) -> int:
            n = 0
            try:
                while n < 10_000:
                    assert answer(recommender, requests(2)[0]) == expected[0]
                    n += 1
            except UsageError:
                pass
            return n

        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(work) for _ in range(4)]
            time.sleep(0.05)
            recommender.close()
            assert all(one.result(30) < 10_000 for one in working)


MEMORY = """
import gc, json, sys
from pathlib import Path
from llmcdsr_lite import Recommender

def status(name):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))
    return int(line.split()[1]) / 1024

def maps():
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if sys.argv[1] in line]

def use():
    recommender = Recommender.load(sys.argv[1], backend=sys.argv[2], search="exact")
    recommender.recommend_batch([list(recommender.items.ids[:5])] * 8)
    recommender.similar(recommender.items.ids[0])
    return recommender

if sys.argv[3] == "warm":
    use().close()
gc.collect()
before = status("VmRSS")
gc.disable()  # what close() lets go of must not need it
recommender = use()
loaded = status("VmRSS")
mapped = len(maps())
recommender.close()
print(json.dumps([before, loaded, status("VmRSS"), mapped, len(maps())]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("backend", ["onnx", pytest.param("numpy", marks=pytest.mark.slow)])
def test_closing_frees_memory_and_files(tmp_path: Path, backend: str) -> None:
    from random_bundle import write_random_bundle

    folder = tmp_path / "large"
    write_random_bundle(folder, (60_000, 30_000))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, folder, backend, "warm"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    before, loaded, closed, mapped, still_mapped = json.loads(done.stdout)
    assert mapped > 0
    assert still_mapped == 0
    assert loaded - before > 20  # MB
    assert closed - before < 0.25 * (loaded - before)


QUIET = """
import json, logging, os, random, sys, threading, warnings
import numpy as np
before = (dict(os.environ), list(warnings.filters), np.random.get_state()[1].tolist(), random.getstate(),
          logging.root.handlers[:], logging.root.level, np.geterr(), sys.getrecursionlimit(), sys.excepthook,
          threading.active_count(), os.getcwd(), sys.flags)
import llmcdsr_lite
if len(sys.argv) > 1:
    recommender = llmcdsr_lite.Recommender.load(sys.argv[1])
    recommender.recommend(["f1"], explain=True)
    recommender.close()
after = (dict(os.environ), list(warnings.filters), np.random.get_state()[1].tolist(), random.getstate(),
         logging.root.handlers[:], logging.root.level, np.geterr(), sys.getrecursionlimit(), sys.excepthook,
         threading.active_count(), os.getcwd(), sys.flags)
loggers = {name: [type(h).__name__ for h in logger.handlers] for name, logger in
           logging.root.manager.loggerDict.items() if getattr(logger, "handlers", [])}
print(json.dumps([[i for i, (a, b) in enumerate(zip(before, after)) if a != b], loggers]))
"""


@pytest.mark.parametrize("use", [False, True])
def test_no_trace_in_the_process(folder: Path, use: bool) -> None:
    arguments = [str(folder)] if use else []
    done = subprocess.run(
        [sys.executable, "-c", QUIET, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == [[], {"llmcdsr_lite": ["NullHandler"]}]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "llmcdsr_lite"):
        yield caplog


def test_an_application_that_asks_is_told(folder: Path, log: pytest.LogCaptureFixture) -> None:
    Recommender.load(folder)
    assert [record.name.split(".")[0] for record in log.records] == ["llmcdsr_lite"]
    assert str(folder) in log.text


ALONE = """
import os, sys
from llmcdsr_lite import Recommender
before = dict(os.environ)
n_before = len(os.listdir("/proc/self/task"))
recommender = Recommender.load(sys.argv[1])
recommender.recommend(recommender.items.ids[:3])
assert os.environ == before
assert len(os.listdir("/proc/self/task")) == n_before, "a thread was started"
child = os.fork()
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""  # the child ends as every program does


@FORK
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_onnxruntime_starts_no_thread_that_reports_usage(folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", ALONE, folder],
        env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        timeout=60,
        check=True,
    )


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
def test_without_mapping_the_files_may_be_truncated(
    bundle_folder: Path, tmp_path: Path, backend: Any
) -> None:
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    expected = Recommender.load(bundle_folder, backend=backend).recommend(["f1", "k2"], k=30)
    recommender = Recommender.load(folder, backend=backend, mmap=False)
    for path in folder.iterdir():
        path.write_bytes(b"")
    assert recommender.recommend(["f1", "k2"], k=30) == expected
    assert recommender.similar("f1", 3)
    assert recommender.recommend([], k=3).fallback
