"""Load on examples/service while its bundle is swapped: ``python benchmarks/serving.py BUNDLE BUNDLE``.

Clients send request after request while the service is told to load the other bundle, time and again. Every
answer must be the one that a `Recommender` of one of the two bundles gives. Prints requests a second, latency
(p50 and p99) of requests during a swap and of the others, failures, and the service's memory after each swap.
Clients, service and other work of the machine share its cores: what holds anywhere are the failures, the
memory, and the ratio of the two latencies.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import CONFIG

APP = Path(__file__).parents[1] / "examples" / "service"
TOKEN = "of the benchmark"


@dataclass(frozen=True)
class Reply:
    """A status and the JSON body."""

    status: int
    body: Any


@dataclass(frozen=True)
class Server:
    """A running service."""

    port: int
    process: subprocess.Popen[bytes]

    @contextmanager
    def client(self) -> Iterator[HTTPConnection]:
        """A connection that stays open."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            yield connection
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, *, token: str = TOKEN) -> Reply:
        """One request over a connection of its own."""
        with self.client() as connection:
            return ask(connection, method, path, body, token=token)

    def memory(self) -> float:
        """Resident memory in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def ask(connection: HTTPConnection, method: str, path: str, body: Any = None, *, token: str = TOKEN) -> Reply:
    """Send one request; `body` is what to send as JSON, or bytes."""
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    connection.request(method, path, content, headers)
    response = connection.getresponse()
    return Reply(response.status, json.loads(response.read()))


@contextmanager
def serving(root: Path, bundle: str, **options: Any) -> Iterator[Server]:
    """Run the service on a free port until the block ends; `options` are those of `subprocess.Popen`."""
    settings = {"LLMCDSR_ROOT": str(root), "LLMCDSR_BUNDLE": bundle, "LLMCDSR_RELOAD_TOKEN": TOKEN}
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **settings, **options.pop("env", {})}
    with socket.create_server(("127.0.0.1", 0)) as listening:  # handed over: nobody can take the port
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as of a port that uvicorn opens
        inherited = [listening.fileno()]
        command = [sys.executable, "-m", "uvicorn", "--factory", "app:from_environment"]
        command += ["--app-dir", str(APP), "--fd", str(inherited[0]), "--log-level", "warning"]
        process = subprocess.Popen(command, env=environment, pass_fds=inherited, **options)
        server = Server(listening.getsockname()[1], process)
    try:
        assert server.ask("GET", "/health").status == 200  # waits in the socket's queue until it is up
        yield server
    finally:
        process.terminate()
        process.wait(60)


@dataclass
class Load:
    """What clients saw, and the service's memory.

    Parameters
    ----------
    requests : list of (start, end)
        Seconds on one clock.
    swaps : list of (start, end)
    failures : list of str
        Of requests and swaps: no answer, an error, or not the answer of either bundle.
    memory : list of float
        MB, before the first swap and after each.
    """

    requests: list[tuple[float, float]] = field(default_factory=list)
    swaps: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def latencies(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Seconds of the requests during which a bundle was loaded or took over, and of the others."""
        requests, swaps = np.array(self.requests), np.array(self.swaps)
        overlaps = (requests[:, :1] < swaps[:, 1]) & (requests[:, 1:] > swaps[:, 0])  # (requests, swaps)
        seconds, during = requests[:, 1] - requests[:, 0], overlaps.any(axis=1)
        return seconds[during], seconds[~during]


@dataclass(frozen=True)
class Expected:
    """A bundle's own answers: its SHA-256 in the service's answers, and for each body what its users get."""

    bundle: str
    answers: list[list[dict[str, Any]]]

    def differs(self, place: int, answers: Sequence[Mapping[str, Any]]) -> str | None:
        """What is wrong with the answers to a body, if anything."""
        for user, (own, found) in enumerate(zip(self.answers[place], answers, strict=True)):
            same = {**own, "items": _ids(own)} == {**found, "items": _ids(found)}
            if not same or not np.allclose(_scores(own), _scores(found), atol=1e-4):  # depends on the batch
                return f"user {user}: {found}, expected {own}"
        return None


def _ids(answer: Mapping[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


def _scores(answer: Mapping[str, Any]) -> list[float]:
    return [item["score"] for item in answer["items"]]


def make_bodies(folder: Path, n: int, n_users: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """Bodies for ``POST /recommend`` of every kind, for the items of a bundle and one it does not have."""
    rng = np.random.default_rng(seed)
    with Recommender.load(folder) as recommender:
        ids, domains = np.array(recommender.items.ids), recommender.domains
    bodies: list[dict[str, Any]] = []
    for number in range(n):
        histories = [rng.choice(ids, rng.integers(0, 21)).tolist() for _ in range(n_users)]
        histories[0].append("not an item")
        body: dict[str, Any] = {
            "users": [{"history": one} for one in histories],
            "k": int(rng.integers(1, 21)),
        }
        kinds = (None, domains[number % len(domains)], list(domains))
        body |= {"domain": kinds[number % 3], "exclude_seen": (None, True, False)[number // 3 % 3]}
        chosen = rng.choice(ids, len(ids) // 2, replace=False)[:2000].tolist()
        body |= {"allow": chosen if number % 4 == 1 else None, "exclude": chosen if number % 4 == 2 else None}
        bodies.append(body)
    return bodies


def own_answers(folder: Path, bodies: Sequence[Mapping[str, Any]]) -> Expected:
    """Answers of `Recommender.recommend`, user by user."""
    answers = []
    with Recommender.load(folder) as recommender:
        for body in bodies:
            settings = {name: value for name, value in body.items() if name != "users"}
            each = [recommender.recommend(user["history"], **settings) for user in body["users"]]
            answers.append(
                [
                    {
                        "items": [{"id": item.id, "score": item.score} for item in one],
                        "unknown_items": list(one.unknown_items),
                        "fallback": one.fallback,
                    }
                    for one in each
                ]
            )
        return Expected(recommender.bundle.hashes[CONFIG], answers)


def drive(
    server: Server,
    bodies: Sequence[Mapping[str, Any]],
    bundles: Mapping[str, Expected],
    *,
    n_swaps: int,
    n_clients: int = 4,
    pause: float = 0.2,
) -> Load:
    """Send the bodies from several connections, over and over, until so many swaps are done.

    Parameters
    ----------
    server : Server
    bodies : sequence of mappings
    bundles : mapping of str to Expected
        By their names in the service's root; they take over in turns, the second one first.
    n_swaps, n_clients : int
    pause : float
        Seconds before each swap, and after the last one.
    """
    load = Load(memory=[server.memory()])
    by_hash = {one.bundle: one for one in bundles.values()}
    done = threading.Event()

    def send(number: int) -> None:
        with server.client() as connection:
            while not done.is_set():
                number = (number + 1) % len(bodies)
                start = time.perf_counter()
                try:
                    reply = ask(connection, "POST", "/recommend", bodies[number])
                except (OSError, HTTPException, ValueError) as error:
                    load.failures.append(f"{type(error).__name__}: {error}")
                    connection.close()  # the next request opens it again
                    continue
                load.requests.append((start, time.perf_counter()))
                wrong: str | None = f"{reply.status}: {reply.body}"
                if reply.status == 200:
                    wrong = by_hash[reply.body["bundle"]].differs(number, reply.body["answers"])
                if wrong is not None:
                    load.failures.append(wrong)

    clients = [threading.Thread(target=send, args=(n * len(bodies) // n_clients,)) for n in range(n_clients)]
    for client in clients:
        client.start()
    try:
        names = list(bundles)
        for number in range(1, n_swaps + 1):
            time.sleep(pause)
            name, start = names[number % len(names)], time.perf_counter()
            reply = server.ask("POST", "/reload", {"name": name})
            load.swaps.append((start, time.perf_counter()))
            load.memory.append(server.memory())
            if reply.status != 200 or reply.body["bundle"] != bundles[name].bundle:
                load.failures.append(f"swap to {name}: {reply}")
        time.sleep(pause)
    finally:
        done.set()
        for client in clients:
            client.join()
    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs=2, metavar="BUNDLE")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--users", type=int, default=4, help="in one request")
    arguments = parser.parse_args()
    bodies = make_bodies(arguments.bundles[0], 48, arguments.users)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, bundle in zip(("one", "other"), arguments.bundles, strict=True):
            (root / name).symlink_to(bundle.absolute(), target_is_directory=True)
        bundles = {name: own_answers(root / name, bodies) for name in ("one", "other")}
        with serving(root, "one") as server:
            load = drive(server, bodies, bundles, n_swaps=arguments.swaps, n_clients=arguments.clients)
    seconds = load.requests[-1][1] - load.requests[0][0]
    during, others = load.latencies()
    print(f"{len(load.requests) / seconds:,.0f} requests/s of {arguments.users} users, {seconds:.0f} s")
    for name, latencies in (("during a swap", during), ("otherwise", others)):
        p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1000
        print(f"{name:<16}{len(latencies):>8,} requests   p50 {p50:7.2f} ms   p99 {p99:7.2f} ms")
    print(f"ratio of p50 {np.median(during) / np.median(others):.2f}")
    print(f"{len(load.failures)} failures in {len(load.swaps)} swaps", *load.failures[:3], sep="\n")
    print("memory (MB) after each swap:", " ".join(f"{one:.0f}" for one in load.memory))


if __name__ == "__main__":
    main()
