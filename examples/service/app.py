"""A bundle's recommendations over HTTP: ``uvicorn --factory app:from_environment``, see README.md."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hmac import compare_digest
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field, StrictBool, StringConstraints
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmcdsr_lite import LlmcdsrError, MissingDependencyError, Recommender
from llmcdsr_lite.bundle.folder import CONFIG

MAX_BODY = 1 << 20  # bytes
MAX_USERS, MAX_K, MAX_HISTORY, MAX_TITLES, MAX_FILTER = 64, 200, 1000, 10, 10_000
MAX_ERRORS = 10  # of one body that are told

Text = Annotated[str, StringConstraints(max_length=500)]  # an item id, a title, the name of a domain
Filter = Annotated[list[Text], Field(max_length=MAX_FILTER)] | None
Domains = Annotated[
    list[Text], Field(min_length=1), BeforeValidator(lambda one: [one] if isinstance(one, str) else one)
]


class User(BaseModel, extra="forbid", coerce_numbers_to_str=True):
    """Item ids, oldest first; titles of items, or any text, that say what the user looks for."""

    history: Annotated[list[Text], Field(max_length=MAX_HISTORY)] = []
    titles: Annotated[list[Text], Field(max_length=MAX_TITLES)] = []


class Batch(BaseModel, extra="forbid", coerce_numbers_to_str=True):
    """Users, and the arguments of `Recommender.recommend_batch` that are the same for all of them."""

    users: Annotated[list[User], Field(min_length=1, max_length=MAX_USERS)]
    domain: Domains | None = None
    k: Annotated[int, Field(ge=1, le=MAX_K, strict=True)] = 10
    exclude_seen: StrictBool | None = None
    allow: Filter = None
    exclude: Filter = None


class Reload(BaseModel, extra="forbid"):
    """A bundle of the root; without a name the one in use, whose folder was replaced."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)] | None = None  # never a path


class Answer(BaseModel):
    """One user's items, best first; unknown ids of the history; whether the most popular items stand in."""

    items: list[dict[str, str | float]]
    unknown_items: list[str]
    fallback: bool


class Answers(BaseModel):
    """Answers in the order of the users, all by the bundle whose config.json has this SHA-256."""

    bundle: str
    answers: list[Answer]
    unknown_filter_items: list[str]


class Health(BaseModel):
    """The bundle in use: its folder's name, the SHA-256 of its config.json, items of each domain."""

    name: str
    bundle: str
    items: dict[str, int]


class Fault(BaseModel):
    """What is wrong: a code for programs, words for people, and the place in the body."""

    code: str
    message: str
    field: str | None = None


class Loaded:
    """A bundle, and how many hold it: the service until another takes over, and each request meanwhile."""

    def __init__(self, name: str, recommender: Recommender) -> None:
        self.recommender = recommender
        sizes = {domain.name: domain.n_items for domain in recommender.items.domains}
        self.health = Health(name=name, bundle=recommender.bundle.hashes[CONFIG], items=sizes)
        self.n_holders = 1


class Service:
    """The bundle in use; one that was replaced is closed when the last request that holds it is done."""

    def __init__(self, root: Path, name: str, encoder: Path | None = None) -> None:
        self._root, self._encoder = root, encoder
        self._counting, self._loading = threading.Lock(), threading.Lock()
        self.current = self._load(name)

    @contextmanager
    def hold(self) -> Iterator[Loaded]:
        """Keep the bundle in use from being closed until the block ends."""
        with self._counting:
            loaded = self.current
            loaded.n_holders += 1
        try:
            yield loaded
        finally:
            self.release(loaded)

    def release(self, loaded: Loaded) -> None:
        """Hold a bundle no longer."""
        with self._counting:
            loaded.n_holders -= 1
            last = loaded.n_holders == 0
        if last:
            loaded.recommender.close()

    def swap(self, name: str | None) -> Health:
        """Load a bundle, then let it take over; where it cannot be loaded, nothing changes."""
        if not self._loading.acquire(blocking=False):  # no third one in memory
            raise HTTPException(409, "another bundle is being loaded")
        try:
            new = self._load(name or self.current.health.name)
            with self._counting:
                old, self.current = self.current, new
        finally:
            self._loading.release()
        self.release(old)
        return new.health

    def _load(self, name: str) -> Loaded:
        return Loaded(name, Recommender.load(self._root / name, encoder=self._encoder))


def limited(app: ASGIApp) -> ASGIApp:
    """Wrap the application: a body that is too long is refused before all of it is in memory."""

    async def limited_app(scope: Scope, receive: Receive, send: Send) -> None:
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > MAX_BODY:
                raise HTTPException(413, f"the body is longer than {MAX_BODY:,} bytes")
            return message

        await app(scope, counted, send)

    return limited_app


@contextmanager
def blaming(field: str) -> Iterator[None]:
    """Turn an error of the package into an answer that names a field of the body."""
    try:
        yield
    except LlmcdsrError as error:
        status = 500 if isinstance(error, MissingDependencyError) else 422
        fault = Fault(code=type(error).__name__, message=str(error), field=field)
        raise HTTPException(status, fault) from error


def refuse(_: Request, error: Exception) -> JSONResponse:
    """Answer ``{"errors": [{"code", "message", "field"}, ...]}``, whatever went wrong."""
    status, faults = 500, [Fault(code="http_500", message="the service failed; its log says why")]
    if isinstance(error, RequestValidationError):
        status, faults = 422, []
        for one in error.errors()[:MAX_ERRORS]:
            place = () if one["type"] == "json_invalid" else one["loc"][1:]
            field = ".".join(map(str, place)) or None
            faults.append(Fault(code=one["type"], message=one["msg"], field=field))
    elif isinstance(error, AnyHTTPException):
        status, told = error.status_code, error.detail
        faults = [told if isinstance(told, Fault) else Fault(code=f"http_{status}", message=told)]
    headers = getattr(error, "headers", None)
    return JSONResponse({"errors": [one.model_dump() for one in faults]}, status, headers)


def create_app(service: Service, token: str | None = None) -> FastAPI:
    """Make the application; functions without ``async`` run in its thread pool, not on the event loop."""

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.release(service.current)

    app = FastAPI(title="llmcdsr_lite", lifespan=closing)
    app.add_middleware(limited)
    for kind in (RequestValidationError, AnyHTTPException, Exception):
        app.add_exception_handler(kind, refuse)

    @app.post("/recommend")
    def recommend(batch: Batch) -> Answers:
        with service.hold() as loaded:
            with blaming("domain"):
                for domain in batch.domain or ():
                    loaded.recommender.items.domain(domain)
            with blaming("users"):
                found = loaded.recommender.recommend_batch(
                    [user.history for user in batch.users],
                    pseudo=[user.titles or "auto" for user in batch.users],
                    **batch.model_dump(exclude={"users"}),
                )
        each = zip(found.to_dicts(), found.unknown_items, found.fallback.tolist(), strict=True)
        answers = [Answer(items=i, unknown_items=list(u), fallback=f) for i, u, f in each]
        unknown = list(found.unknown_filter_items)
        return Answers(bundle=loaded.health.bundle, answers=answers, unknown_filter_items=unknown)

    @app.get("/health")
    async def health() -> Health:  # answers even while all threads are busy
        return service.current.health

    @app.post("/reload")
    def reload(wanted: Reload, authorization: Annotated[str, Header()] = "") -> Health:
        if token is None:
            raise HTTPException(403, "LLMCDSR_RELOAD_TOKEN is not set, so nobody may replace the bundle")
        if not compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "expected the header 'Authorization: Bearer TOKEN'")
        with blaming("name"):
            return service.swap(wanted.name)

    return app


def from_environment() -> FastAPI:
    """Make the application by the environment's variables, which README.md lists."""
    names = ("ROOT", "BUNDLE", "ENCODER", "RELOAD_TOKEN")
    root, bundle, encoder, token = (os.environ.get(f"LLMCDSR_{name}") for name in names)
    if not (root and bundle):
        raise SystemExit("set LLMCDSR_ROOT to a folder of bundles, LLMCDSR_BUNDLE to the name of one in it")
    try:
        return create_app(Service(Path(root), bundle, Path(encoder) if encoder else None), token or None)
    except LlmcdsrError as error:
        raise SystemExit(str(error)) from None
