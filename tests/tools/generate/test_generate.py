"""The generate stage against a server that answers, fails, or goes away in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_llm_server import MODEL, FakeServer, names_for, serving
from snack_world import N_SINGLE, make_dataset

from llmcdsr_lite.errors import DataError, GenerationError, UsageError
from llmcdsr_tools.cold_histories import cold_histories
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.generate.asking import MAX_FAILURES
from llmcdsr_tools.generate.generate_settings import GenerateSettings, PromptSettings, ServerSettings
from llmcdsr_tools.generate.generation import GenerateResult, generate
from llmcdsr_tools.generate.language_model import Reply
from llmcdsr_tools.generate.outcome import GenerationYield, format_yield
from llmcdsr_tools.generate.plan import format_plan, plan_generation
from llmcdsr_tools.generate.prompts import Prompt
from llmcdsr_tools.names import read_names

pytest.importorskip("openai")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


def run(server: FakeServer, dataset: Dataset | Path, output: Path, **options: Any) -> GenerateResult:
    of_server = {k: options.pop(k) for k in ("endpoint", "retries", "timeout") if k in options}
    of_settings = {k: options.pop(k) for k in ("output_format", "concurrency") if k in options}
    prompt = PromptSettings(n_names=5, seed=options.pop("seed", 0))
    settings = ServerSettings(server.url, MODEL, **{"retries": 2, "backoff": 0.001, **of_server})
    return generate(dataset, output, settings, GenerateSettings(prompt, **of_settings), **options)


def asked_for(server: FakeServer) -> list[str]:
    """The prompts that the server got."""
    bodies = [request["body"] for request in server.requests]
    return [body["messages"][-1]["content"] if "messages" in body else body["prompt"] for body in bodies]


@pytest.mark.parametrize(("endpoint", "form"), [("chat", "auto"), ("chat", "list"), ("completion", "auto")])
def test_every_single_domain_user_is_asked_once(
    server: FakeServer, dataset: Dataset, tmp_path: Path, endpoint: str, form: str
) -> None:
    told = []
    output = tmp_path / "new" / "names.jsonl"
    result = run(
        server, dataset, output, endpoint=endpoint, output_format=form, progress=lambda *n: told.append(n)
    )
    records = read_names(output)
    assert [r.user for r in records] == [f"u{n}" for n in range(N_SINGLE)]  # in the order of the data set
    assert [r.domain for r in records] == ["kitchen", "food"] * (N_SINGLE // 2)
    assert {r.generator for r in records} == {MODEL}
    prompts = asked_for(server)
    assert len(prompts) == N_SINGLE
    assert sorted(r.names for r in records) == sorted(tuple(names_for(prompt)) for prompt in prompts)
    assert told == [(n, N_SINGLE) for n in range(1, N_SINGLE + 1)]
    assert all(
        ("response_format" in r["body"]) == ((endpoint, form) == ("chat", "auto")) for r in server.requests
    )
    seeds = {request["body"]["seed"] for request in server.requests}
    assert len(seeds) == N_SINGLE
    assert max(seeds) < 2**31
    assert (result.n_wanted, result.n_resumed, result.failures, result.retried) == (N_SINGLE, 0, (), {})
    y = result.parsed
    assert (y.n_answers, y.n_kept, y.n_names_kept, y.tokens_in) == (
        N_SINGLE,
        N_SINGLE,
        5 * N_SINGLE,
        70 * N_SINGLE,
    )


def test_a_prompt_is_of_its_users_titles(server: FakeServer, dataset: Dataset, tmp_path: Path) -> None:
    run(server, dataset, tmp_path / "names.jsonl", endpoint="completion", users=["u3"])
    (prompt,) = asked_for(server)
    own = [f"- {dataset.catalogue.titles[row - 1]}" for row in dataset.train[3]]
    assert prompt.endswith("kitchen:\n" + "\n".join(own) + "\nfood:\n1.")
    assert server.requests[0]["body"]["stop"] == ["\n\n", "===", "\n6."]


def test_a_server_without_schemas_is_asked_for_lists(
    server: FakeServer, dataset: Dataset, tmp_path: Path
) -> None:
    server.always = "no schema"
    result = run(server, dataset, tmp_path / "names.jsonl", concurrency=1)
    assert result.parsed.n_kept == N_SINGLE
    assert ["response_format" in request["body"] for request in server.requests] == [True] + [
        False
    ] * N_SINGLE
    answers = [json.loads(line) for line in (tmp_path / "names.jsonl.answers").read_text().splitlines()[1:]]
    assert {answer["output_format"] for answer in answers} == {"list"}
    with pytest.raises(GenerationError, match="not supported"):  # asked for JSON, it is not given a list
        run(server, dataset, tmp_path / "other.jsonl", output_format="json")


def test_requests_at_a_time(server: FakeServer, dataset: Dataset, tmp_path: Path) -> None:
    server.together = threading.Barrier(4, timeout=60)  # fewer at a time would be failures
    assert not run(server, dataset, tmp_path / "names.jsonl", concurrency=4).failures
    assert server.most_at_a_time == 4
    server.together, server.most_at_a_time = None, 0
    run(server, dataset, tmp_path / "one.jsonl", concurrency=1, limit=5)
    assert server.most_at_a_time == 1


def test_a_limit_is_a_sample_that_grows(server: FakeServer, dataset: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "names.jsonl"
    assert run(server, dataset, output, limit=6).n_wanted == 6
    first = {r.user for r in read_names(output)}
    assert len(first) == 6
    assert first != {f"u{n}" for n in range(6)}
    result = run(server, dataset, output, limit=10)
    assert (result.n_wanted, result.n_resumed) == (10, 6)
    assert first < {r.user for r in read_names(output)}
    assert len(server.requests) == 10
    run(server, dataset, tmp_path / "other.jsonl", limit=6, seed=1)
    assert {r.user for r in read_names(tmp_path / "other.jsonl")} != first


def test_held_out_users_are_asked_with_one_domain_hidden(
    server: FakeServer, dataset: Dataset, tmp_path: Path
) -> None:
    output = tmp_path / "names.jsonl"
    run(server, dataset, output, endpoint="completion", split="test")
    assert [(r.user, r.domain) for r in read_names(output)] == [
        (f"w{n}", domain) for n in range(4) for domain in ("food", "kitchen")
    ]
    for history in cold_histories(dataset, "test"):
        shown = [f"- {dataset.catalogue.titles[row - 1]}" for row in history.rows]
        tail = "\n".join(shown) + ("\nkitchen:\n1." if history.domain else "\nfood:\n1.")
        assert sum(prompt.endswith(tail) for prompt in asked_for(server)) == 1


class Scripted:
    """A model that answers with texts of ours."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.prompts: list[Prompt] = []

    def ask(self, prompt: Prompt, output_format: str, seed: int) -> Reply:
        self.prompts.append(prompt)
        text = self.texts.pop(0)
        own, example = prompt.history[0], prompt.examples[0]
        return Reply(text.format(own=own, example=example), "cut" in text, 7, None, 0.5)


def test_what_is_dropped_is_counted(server: FakeServer, dataset: Dataset, tmp_path: Path) -> None:
    model = Scripted(
        "1. Kettle\n2. {own}\n3. {example}\n4. kettle\n5. 777\n6. Tin\n7. Tray",
        "1. Kettle\n2. {own}\n3. Tin",
        "no list",
        "",
        "1. Kettle\n2. Tin\n3. Tray\n4. cut",
    )
    output = tmp_path / "names.jsonl"
    result = run(server, dataset, output, model=model, limit=5, concurrency=1, output_format="list")
    assert result.parsed == GenerationYield(5, 2, 1, 1, 1, 1, 13, 6, 1, 1, 2, 1, 0, 35, 0, 2.5)
    assert sorted(r.names for r in read_names(output)) == [("Kettle", "Tin", "Tray")] * 2
    told = format_yield(result.parsed)
    assert (
        "2 of 5 answers kept (40.0%); dropped: 1 with two names or fewer, 1 without a list, 1 empty" in told
    )
    assert "1 copied from the examples, 2 from the user's own history, 1 duplicates, 1 unusable" in told
    assert not server.requests  # nothing is sent to anybody else


def test_the_names_file_can_be_made_again_from_the_answers(
    server: FakeServer, dataset: Dataset, tmp_path: Path
) -> None:
    output = tmp_path / "names.jsonl"
    run(server, dataset, output)
    before = output.read_bytes()
    output.unlink()
    result = run(server, dataset, output)
    assert (result.n_resumed, len(server.requests)) == (N_SINGLE, N_SINGLE)
    assert output.read_bytes() == before


def test_users_without_an_answer_are_asked_again(
    server: FakeServer, dataset: Dataset, tmp_path: Path
) -> None:
    output, undisturbed = tmp_path / "names.jsonl", tmp_path / "whole.jsonl"
    server.faults = ["500"] * 3 + ["reset", "429", "no JSON"] + ["cut-off JSON"] * 3
    result = run(server, dataset, output, concurrency=1)
    assert len(result.failures) == 3
    assert "status 500" in result.failures[0].reason
    assert (result.parsed.n_answers, result.retried["status 500"]) == (N_SINGLE - 3, 2)
    assert {r.user for r in read_names(output)}.isdisjoint(f.user for f in result.failures)
    again = run(server, dataset, output)
    assert (again.n_resumed, again.failures) == (N_SINGLE - 3, ())
    run(server, dataset, undisturbed)
    assert output.read_bytes() == undisturbed.read_bytes()


def test_wrong_credentials_stop_everything(server: FakeServer, dataset: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "names.jsonl"
    run(server, dataset, output, limit=4)
    server.always = "401"
    with pytest.raises(GenerationError, match="refuses the credentials"):
        run(server, dataset, output, concurrency=2)
    time.sleep(0.1)
    assert len(server.requests) <= 4 + 2  # those in flight
    server.always = None
    assert run(server, dataset, output).n_resumed == 4  # nothing was lost


def test_a_server_that_is_down_is_not_asked_for_everybody(
    server: FakeServer, dataset: Dataset, tmp_path: Path
) -> None:
    server.always = "503"
    with pytest.raises(
        GenerationError, match=rf"{MAX_FAILURES} requests in a row failed.*names\.jsonl\.answers"
    ):
        run(server, dataset, tmp_path / "names.jsonl", concurrency=1)
    assert MAX_FAILURES * 3 <= len(server.requests) <= MAX_FAILURES * 3 + 3


def test_answers_of_another_run_are_not_gone_on_with(
    server: FakeServer, dataset: Dataset, tmp_path: Path
) -> None:
    output = tmp_path / "names.jsonl"
    run(server, dataset, output, limit=2)
    with pytest.raises(GenerationError, match="seed was 0 and is now 1"):
        run(server, dataset, output, limit=2, seed=1)
    with pytest.raises(GenerationError, match="split was 'train' and is now 'valid'"):
        run(server, dataset, output, split="valid")
    assert len(server.requests) == 2


def test_arguments_that_cannot_be_meant(server: FakeServer, dataset: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "names.jsonl"
    with pytest.raises(
        DataError, match=r"'u30' is no user of the train split without items of a domain \(1 such"
    ):
        run(server, dataset, output, users=["u1", "u30"])
    with pytest.raises(UsageError, match="completion endpoint does not support output_format 'json'"):
        run(server, dataset, output, endpoint="completion", output_format="json")
    with pytest.raises(UsageError, match="concurrency must be at least 1, found 0"):
        run(server, dataset, output, concurrency=0)
    assert not any(tmp_path.iterdir())


def test_a_plan_sends_nothing_and_counts(server: FakeServer, dataset: Dataset) -> None:
    settings = GenerateSettings(PromptSettings(n_names=5))
    to = ServerSettings(server.url, MODEL, "completion")
    plan = plan_generation(dataset, to, settings, price_in=2.0, price_out=10.0)
    assert not server.requests
    assert plan.n_requests == N_SINGLE
    first, second = plan.examples
    assert first.text.endswith("food:\n1.")
    assert second.text.endswith("kitchen:\n1.")
    n_tokens = plan.tokens_in / N_SINGLE
    assert min(first.n_tokens, second.n_tokens) - 5 <= n_tokens <= max(first.n_tokens, second.n_tokens) + 5
    assert 5 * 4 * N_SINGLE <= plan.tokens_out <= 5 * 8 * N_SINGLE  # "3. Pan 12" and a line end, five times
    assert plan.cost == pytest.approx((plan.tokens_in * 2 + plan.tokens_out * 10) / 1e6)
    told = format_plan(plan)
    assert f"--- {N_SINGLE} requests ---" in told
    assert first.text in told
    half = plan_generation(dataset, to, settings, limit=N_SINGLE // 2)
    assert (half.n_requests, half.cost) == (N_SINGLE // 2, None)
    chat = plan_generation(dataset, ServerSettings(server.url, MODEL), settings, limit=2)
    assert "[system]\nYou know what people buy" in format_plan(chat)


KILLED = """
import sys
from pathlib import Path
from fake_llm_server import MODEL
from llmcdsr_tools.generate.generate_settings import ServerSettings
from llmcdsr_tools.generate.generate_settings import PromptSettings
from llmcdsr_tools.generate.generation import generate
from llmcdsr_tools.generate.generate_settings import GenerateSettings
generate(
    Path(sys.argv[1]), Path(sys.argv[2]), ServerSettings(sys.argv[3], MODEL),
    GenerateSettings(PromptSettings(n_names=5), concurrency=3),
)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(server: FakeServer, dataset: Dataset, tmp_path: Path) -> None:
    folder, output, whole = tmp_path / "dataset", tmp_path / "names.jsonl", tmp_path / "whole.jsonl"
    save_dataset(dataset, folder)
    run(server, folder, whole)
    server.requests.clear()
    server.seconds = 0.05
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    answers = tmp_path / "names.jsonl.answers"
    for n_answers in (4, 13):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder), str(output), server.url], env=environment
        )
        deadline = time.monotonic() + 300  # of a machine that stands still now and then
        try:
            while not answers.exists() or answers.read_bytes().count(b"\n") <= n_answers:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not output.exists()
    kept = answers.read_bytes().count(b"\n") - 1
    assert 13 <= kept < N_SINGLE
    result = run(server, folder, output)
    assert result.n_resumed == kept
    assert output.read_bytes() == whole.read_bytes()
    assert N_SINGLE <= len(server.requests) <= N_SINGLE + 2 * 3  # those in flight, twice
