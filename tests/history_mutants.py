"""Mutants of a history file, and what ``llmcdsr score`` makes of them: ``FIRST STOP BUNDLE WORK``.

What each line says is read here once more, from bytes; a record that is still one must get the answer of
`recommend` alone, and one that is none must be reported by its line.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from mutation import alarm, limit, tell

from llmcdsr_lite import Recommender
from llmcdsr_lite.cli.commands import cli

Rng = np.random.Generator
K = 4
LONG = 300_000
JUNK = [
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\r", b"\n", b"\n\n", b"\x85", b"\xe2\x80\xa8"),
    *(b"\x1a", b"\\"),
    *(b'"', b"'", b",", b"{", b"}", b"[", b"]", b":", b" ", b"\t", b"null", b"true", b"NaN", b"Infinity"),
    *(b"1e999", b"-0", b"9" * 5000, b"1" * 400, b"\\ud800", b"\\u0000", b"//", b"\xef\xbb\xbf", b"1.5"),
]
LINES = [
    b"",
    b"   ",
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b"{}",
    b"[" * LONG,
    b'{"a":' * LONG,
    b"{" * 50,
    b" " * LONG,
    b'{"user": ' + b"9" * 5000 + b', "history": []}',
    b'{"user": 1e400, "history": []}',
    b'{"user": true, "history": []}',
    b'{"user": null, "history": ["f1"]}',
    b'{"user": "a", "history": "f1"}',
    b'{"user": "a", "history": ["f1", 2]}',
    b'{"user": "a", "history": ["f1", 2.5]}',
    b'{"user": "a", "history": ["f1"], "domain": "elsewhere"}',
    b'{"user": "a", "history": ["f1"], "domain": ["food"]}',
    b'{"user": "a", "user": "b", "history": ["f1"], "history": ["k2"]}',
    b'{"user": "\\ud83d", "history": []}',
    b'{"user": "a", "history": ["' + b"x" * LONG + b'"]}',
    b'{"user": "a", "history": [' + b'"f1",' * 20_000 + b'"k2"]}',
    b"user,history,domain",
    b"a," + b"f1 " * 20_000 + b",",
    b"a," + b"x" * LONG + b",",
    b'a,"f1 k2",food',
    b'a,"f1,food',
    b'a,"',
    b'a,"f1\nk2",food',
    b"user,user,history",
    b"User,history,domain",
    b"a,f1",
    b"a,f1,food,more",
    b",,",
]


def base(rng: Rng, ids: list[str], form: str) -> bytes:
    """A sound file of a few users."""
    lines = ["user,history,domain"] if form == "csv" else []
    for user in range(int(rng.integers(1, 9))):
        history = rng.choice(ids, rng.integers(0, 6)).tolist()
        domain = [None, "food", "kitchen"][rng.integers(3)]
        record = {"user": f"u{user}", "history": history, "domain": domain}
        line = json.dumps(record)
        lines.append(f"u{user},{' '.join(history)},{domain or ''}" if form == "csv" else line)
    return ("\n".join(lines) + "\n").encode()


def mutate(content: bytes, rng: Rng) -> bytes:
    kind = rng.integers(9)
    place = int(rng.integers(len(content)))
    lines = content.split(b"\n")
    number = int(rng.integers(len(lines)))
    if kind == 0:
        changed = bytearray(content)
        for where in rng.integers(0, len(content), rng.integers(1, 5)):
            changed[where] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + rng.bytes(int(rng.integers(1, 40))) + content[place:]
    if kind in (3, 4):
        return content[:place] + JUNK[rng.integers(len(JUNK))] + content[place + int(rng.integers(2)) :]
    if kind in (5, 6):
        lines.insert(number, LINES[rng.integers(len(LINES))])
    elif kind == 7:
        lines.insert(number, lines[rng.integers(len(lines))])
    else:
        del lines[number]
    return b"\n".join(lines)


def text_lines(content: bytes) -> list[str]:
    """Lines as the reader counts them; bytes that are not UTF-8 as half characters."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    return re.split("\r\n|\n|\r", text)


def json_records(content: bytes) -> list[tuple[str, list[str], str | None] | None]:
    """User, history and domain of every line that is not blank, None where it is no record."""
    records: list[tuple[str, list[str], str | None] | None] = []
    for line in text_lines(content):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            user, history, domain = value["user"], value["history"], value.get("domain")
            good = type(user) in (str, int) and type(history) is list and domain in (None, "food", "kitchen")
            good = good and all(type(item) in (str, int) for item in history)
            history = [str(item) for item in history]
            "".join([str(user), *history]).encode()
            records.append((str(user), history, domain) if good else None)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            records.append(None)
    return records


def csv_records(content: bytes) -> list[tuple[str, list[str], str | None] | None] | None:
    """The same of a CSV; None where no line of it can be used, for want of a header."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = _keep_ends(text)
    csv.field_size_limit(1 << 24)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
    except csv.Error:
        return None
    if header is None:
        return []
    known = [name for name in header if name.strip().lower() in ("user", "history", "domain")]
    if sorted(known) not in (["history", "user"], ["domain", "history", "user"]):
        return None
    records: list[tuple[str, list[str], str | None] | None] = []
    place = reader.line_num
    while place < len(lines):
        reader = csv.reader(lines[place:], strict=True)  # anew for every record: none takes another's lines
        place += 1
        try:
            fields = next(reader)
            place += reader.line_num - 1
            if not fields:
                continue
            named = dict(zip(header, fields, strict=True))
            domain = named.get("domain") or None
            history = [item for item in named["history"].split(" ") if item]
            "".join([named["user"], *history]).encode()
            records.append((named["user"], history, domain) if domain in (None, "food", "kitchen") else None)
        except (csv.Error, ValueError):
            records.append(None)
    return records


def _keep_ends(text: str) -> list[str]:
    return re.findall("[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+$", text)


def check(recommender: Recommender, path: Path, output: Path, on_error: str) -> str:
    """Score the file, and compare."""
    content = path.read_bytes()
    broken = False
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            broken = True
    options = ["-k", str(K), "--model", "cached", "-o", str(output), "--on-error", on_error]
    result = CliRunner().invoke(cli, ["score", str(path), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (0, 1), f"status {result.exit_code}"
    assert "Traceback" not in result.output
    records = None if broken else csv_records(content) if ".csv" in path.name else json_records(content)
    if result.exit_code == 1:
        assert records is None or (on_error == "fail" and None in records), f"refused: {result.output[:300]}"
        assert str(path) in result.output, "the message does not name the file"
        assert not output.exists(), "half an output has the name of a whole one"
        return "refused"
    assert records is not None, "what cannot be read was scored"
    good = [record for record in records if record is not None]
    assert on_error == "skip" or len(good) == len(records), "a bad record was passed over"
    answers = [json.loads(line) for line in output.read_bytes().split(b"\n")[:-1]]
    assert [answer["user"] for answer in answers] == [user for user, _, _ in good], "other users"
    for answer, (_, history, domain) in zip(answers, good, strict=True):
        expected = recommender.recommend(history, domain=domain, k=K)
        assert [item["id"] for item in answer["items"]] == [item.id for item in expected], "other items"
        scores = [item["score"] for item in answer["items"]]
        assert np.allclose(scores, [item.score for item in expected], atol=2e-5), "other scores"
        assert answer["fallback"] == expected.fallback
        assert answer["unknown"] == len(expected.unknown_items)
    if len(good) < len(records):
        assert f"{path}:" in result.output, "a bad record was not reported"
        assert f"{len(records) - len(good)} bad records left out" in result.output
        return "skipped"
    return "right"


def outcome(recommender: Recommender, work: Path, rng: Rng) -> str:
    form = ["jsonl", "jsonl", "csv"][rng.integers(3)]
    zipped = rng.random() < 0.25
    content = base(rng, list(recommender.items.ids), form)
    inside = rng.random() < 0.8 or not zipped
    if inside:
        content = mutate(content, rng)
    if zipped:
        content = gzip.compress(content, 1)
        if not inside or rng.random() < 0.2:
            content = mutate(content, rng)
    path = work / f"histories.{form}{'.gz' * zipped}"
    path.write_bytes(content)
    output = work / "output.jsonl"
    output.unlink(missing_ok=True)
    on_error = ["skip", "fail"][rng.integers(2)]
    what = f"{path.name}, {on_error}, {len(content)} bytes"
    try:
        return f"{check(recommender, path, output, on_error)}: {what}"
    except AssertionError as error:
        return f"wrong: {what}: {error}: {content[:300]!r}"
    except BaseException as error:
        return f"raised: {what}: {type(error).__name__}: {error}: {content[:300]!r}"


def main() -> None:
    first, stop, bundle, work = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    limit()
    recommender = Recommender.load(bundle)
    Recommender.load = lambda *_, **__: recommender  # type: ignore[method-assign]  # case after case
    folder = work / f"histories-{first}"
    folder.mkdir()
    for case in range(first, stop):
        alarm()
        tell(case, outcome(recommender, folder, np.random.default_rng([2, case])))


if __name__ == "__main__":
    main()
