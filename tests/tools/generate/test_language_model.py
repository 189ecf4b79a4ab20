"""One request, to a server that behaves and to one that does not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fake_llm_server import MODEL, FakeServer, names_for, serving

from llmcdsr_lite.errors import GenerationError, MissingDependencyError, UsageError
from llmcdsr_tools.generate.generate_settings import ServerSettings
from llmcdsr_tools.generate.language_model import FormatRefusedError, OpenAIModel, Reply, RequestFailedError
from llmcdsr_tools.generate.prompts import Prompt

pytest.importorskip("openai")

CHAT = Prompt("You sell.", "What next?", (), (), 5)
COMPLETION = Prompt(None, "The list:\n1.", (), (), 5)
LIST = "\n".join(f"{i}. {name}" for i, name in enumerate(names_for("What next?"), 1))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


@pytest.fixture
def make_model(server: FakeServer) -> Iterator[Any]:
    models = []

    def make(**settings: Any) -> OpenAIModel:
        chosen = {"backoff": 0.001, "timeout": 60.0, "retries": 3, **settings}
        base_url = chosen.pop("base_url", server.url)
        models.append(OpenAIModel(ServerSettings(base_url, MODEL, **chosen), ["\n\n"], threading.Event()))
        return models[-1]

    yield make
    for model in models:
        model.close()


def test_a_chat_request(server: FakeServer, make_model: Any) -> None:
    reply = make_model(temperature=0.25, max_tokens=77).ask(CHAT, "list", 9)
    assert reply == Reply(LIST, False, 70, 30, reply.seconds)
    assert 0 < reply.seconds < 60
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["body"] == {
        "model": MODEL,
        "messages": [{"role": "system", "content": "You sell."}, {"role": "user", "content": "What next?"}],
        "temperature": 0.25,
        "max_tokens": 77,
        "seed": 9,
    }


def test_a_text_that_comes_in_parts(server: FakeServer, make_model: Any) -> None:
    server.faults[:] = ["parts"]
    assert make_model().ask(CHAT, "list", 9).text == LIST


def test_json_is_asked_for_by_a_schema(server: FakeServer, make_model: Any) -> None:
    text = make_model().ask(CHAT, "json", 1).text
    assert text.startswith('{"names": [')
    schema = server.requests[0]["body"]["response_format"]
    assert schema["type"] == "json_schema"
    assert schema["json_schema"]["schema"]["properties"] == {
        "names": {"type": "array", "items": {"type": "string"}}
    }


def test_a_completion_request(server: FakeServer, make_model: Any) -> None:
    reply = make_model(endpoint="completion", frequency_penalty=0.5).ask(COMPLETION, "list", 9)
    assert reply.text.startswith(f" {names_for(COMPLETION.text)[0]}\n2. ")
    (request,) = server.requests
    assert request["path"] == "/v1/completions"
    assert request["body"]["prompt"] == COMPLETION.text
    assert request["body"]["stop"] == ["\n\n"]
    assert request["body"]["frequency_penalty"] == 0.5


TRANSIENT = {
    "408": "status 408",
    "409": "status 409",
    "429": "status 429",
    "500": "status 500",
    "503": "status 503",
    "slow": "timeout",
    "reset": "connection",
    "reset in the middle": "connection",
    "cut-off JSON": "malformed reply",
    "no JSON": "malformed reply",
    "wrong schema": "malformed reply",
    "no choices": "malformed reply",
    "number for text": "malformed reply",
}


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_may_pass_is_tried_again(server: FakeServer, make_model: Any, fault: str, endpoint: Any) -> None:
    server.faults = [fault, fault]
    model = make_model(endpoint=endpoint, timeout=1.0 if fault == "slow" else 60.0)
    prompt = CHAT if endpoint == "chat" else COMPLETION
    assert names_for(prompt.text)[0] in model.ask(prompt, "list", 1).text
    assert len(server.requests) == 3
    assert model.retried == {TRANSIENT[fault]: 2}


def test_a_fault_that_stays_fails_the_request(server: FakeServer, make_model: Any) -> None:
    server.always = "500"
    with pytest.raises(RequestFailedError, match=r"status 500: .*no: 500.* \(4 tries\)"):
        make_model().ask(CHAT, "list", 1)
    assert len(server.requests) == 4


def test_nobody_there(make_model: Any) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(RequestFailedError, match=r"http://127.*refused.*\(2 tries\)"):
        make_model(base_url=url, retries=1).ask(CHAT, "list", 1)


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_wrong_credentials_end_everything_at_once(server: FakeServer, make_model: Any, status: str) -> None:
    server.always = status
    with pytest.raises(GenerationError, match=rf"\(status {status}\)") as caught:
        make_model().ask(CHAT, "list", 1)
    assert not isinstance(caught.value, RequestFailedError)
    assert len(server.requests) == 1


def test_a_request_that_is_refused_is_not_repeated(server: FakeServer, make_model: Any) -> None:
    server.always = "400"
    with pytest.raises(RequestFailedError, match="refuses the request") as caught:
        make_model().ask(CHAT, "list", 1)
    assert not isinstance(caught.value, FormatRefusedError)
    with pytest.raises(FormatRefusedError):
        make_model().ask(CHAT, "json", 1)
    assert len(server.requests) == 2


def test_the_server_says_how_long_to_wait(server: FakeServer, make_model: Any) -> None:
    server.faults = ["429, wait"]
    start = time.perf_counter()
    make_model().ask(CHAT, "list", 1)
    assert time.perf_counter() - start >= 0.3


def test_waits_grow(make_model: Any) -> None:
    model = make_model(backoff=1.0)
    for attempt, least in enumerate((1, 2, 4, 8)):
        assert all(0.75 * least <= model._wait(attempt, None) <= 1.25 * least for _ in range(50))
    assert model._wait(30, None) == model._wait(0, 1e9) == 60
    assert model._wait(0, 20.0) == 20


def test_an_answer_that_became_too_long(server: FakeServer, make_model: Any) -> None:
    server.always = "too long"
    reply = make_model().ask(CHAT, "list", 1)
    assert reply.cut_off
    assert LIST.startswith(reply.text)


def test_the_key_comes_from_the_environment_alone(
    server: FakeServer, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of somebody else")
    monkeypatch.setenv("SHOP_KEY", "secret")
    make_model().ask(CHAT, "list", 1)
    make_model(api_key_env="SHOP_KEY").ask(CHAT, "list", 1)
    sent = [request["headers"]["authorization"] for request in server.requests]
    assert sent == ["Bearer none", "Bearer secret"]
    monkeypatch.setenv("SHOP_KEY", "")
    with pytest.raises(UsageError, match="environment variable SHOP_KEY is not set"):
        make_model(api_key_env="SHOP_KEY")


def test_what_cannot_be_meant(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"base_url is '127\.0\.0\.1:80', expected http"):
        make_model(base_url="127.0.0.1:80")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llmcdsr-lite\[generate\]'"):
        make_model()
