"""Spans of time and labels as options."""

import argparse

import pytest

from vinf_client.cli.values import duration, label

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (" 5s ", 5)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "5w", "s", "1e3", "nan", "5 s", "٣s", "9" * 400])
def test_what_is_no_duration(text):
    with pytest.raises(argparse.ArgumentTypeError, match="allowed: a time such as 90s, 15m, 2h or 1d"):
        duration(text)


def test_labels():
    assert label("a=b") == ("a", "b")
    assert label("a==b") == ("a", "=b")
    assert label("a=") == ("a", "")


@pytest.mark.parametrize("text", ["", "a", "=b"])
def test_what_is_no_label(text):
    with pytest.raises(argparse.ArgumentTypeError, match="allowed: KEY=VALUE"):
        label(text)
