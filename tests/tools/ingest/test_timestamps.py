from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_tools.ingest.timestamps import Timestamps, parse_date, parse_number


def read(*texts: str) -> Timestamps:
    times = Timestamps()
    for line, text in enumerate(texts, 2):
        times.append(text, line)
    return times


def test_nanoseconds_keep_their_order() -> None:
    found = read("1704412800000000002", "1704412800000000001").array()
    assert found.dtype == np.int64
    assert found.tolist() == [1704412800000000002, 1704412800000000001]


def test_a_fraction_makes_all_of_them_fractions() -> None:
    found = read("20", "-7", "1e3", "2.5", "9007199254740992").array()
    assert found.dtype == np.float64
    assert found.tolist() == [20, -7, 1000, 2.5, 2**53]


@given(
    st.lists(
        st.integers(-(2**63), 2**63 - 1).map(str) | st.floats(-1e6, 1e6).map("{:.3f}".format), min_size=1
    )
)
def test_what_is_not_refused_is_in_the_order_of_the_exact_numbers(texts: list[str]) -> None:
    try:
        found = read(*texts).array()
    except ValueError:
        assert any("." in text for text in texts)
        assert any(abs(int(text)) > 2**53 for text in texts if "." not in text)
        return
    exact = [Fraction(text) for text in texts]
    assert np.argsort(found, kind="stable").tolist() == sorted(range(len(exact)), key=exact.__getitem__)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("2024-01-01", "20240102"), "'20240102' is a number, but that of line 2 is a date"),
        (("2024-01-01", "2024-01-03", "1704412800000"), "'1704412800000' is a number, but that of line 2"),
        (("5", "2024-01-01"), "timestamp '2024-01-01' is a date, but that of line 2 is a number"),
        (("1.5", "9007199254740993"), r"line 3 has a whole number beyond 2\*\*53 and line 2 one with a"),
        (("1", "9007199254740993", "1e3"), r"line 3 has a whole number beyond 2\*\*53 and line 4 one with a"),
        (("9223372036854775808",), "timestamp '9223372036854775808' is beyond 64 bits"),
        (("9" * 5000,), "is not finite"),
        (("nan",), "timestamp 'nan' is not finite"),
        (("1_000",), "timestamp '1_000' is neither a number nor an ISO 8601 date"),
        (("2024-02-30",), "timestamp '2024-02-30' is neither"),
        (("",), "timestamp '' is neither"),
    ],
)
def test_what_would_be_misordered_or_is_no_time_is_refused(texts: tuple[str, ...], message: str) -> None:
    *before, last = texts
    times = read(*before)
    with pytest.raises(ValueError, match=message) as caught:
        times.append(last, len(texts) + 1)
    assert len(str(caught.value)) < 250


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(-720, 720))
def test_dates_are_seconds_since_1970(naive: datetime, offset: int) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    zoned = naive.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert parse_date(zoned.isoformat()) == pytest.approx((zoned - epoch) / timedelta(seconds=1), abs=2e-6)
    assert parse_date(naive.isoformat()) == parse_date(naive.isoformat() + "Z")
    assert parse_date(naive.isoformat(" ") + "+00:00") == parse_date(naive.isoformat())


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a running process cannot be set here")
def test_dates_without_a_zone_are_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    try:
        assert parse_date("1970-01-02") == 86400
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(-1e18, 1e18))
def test_numbers_are_taken_as_they_are(number: float) -> None:
    assert parse_number(repr(number)) == number


@given(st.text(max_size=12))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        found = read(text).array()
    except ValueError:
        return
    assert math.isfinite(found[0])
