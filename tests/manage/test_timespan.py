"""Time spans of the shell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.errors import Refused
from everpost.manage import timespan


@given(st.integers(0, 14 * 86400))
def test_parse_and_text_are_inverse(span: int) -> None:
    assert timespan.seconds(timespan.text(span), "ReplayLagTime") == span


@pytest.mark.parametrize(
    ("text", "seconds"), [("02:00:00", 7200), ("1.00:00:00", 86400), ("14.00:00:00", 1209600), ("00:30", 1800)]
)
def test_spans_as_they_are_typed(text: str, seconds: int) -> None:
    assert timespan.seconds(text, "ReplayLagTime") == seconds


@pytest.mark.parametrize("text", ["", "2h", "24:00:00", "00:60:00", "-1.00:00:00", "14.00:00:01", "1:2:3:4"])
def test_what_is_no_span_up_to_14_days_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refused, match="-ReplayLagTime"):
        timespan.seconds(text, "ReplayLagTime")
