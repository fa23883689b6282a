"""The table of the 78 cases and the tests that it names are the same."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
CASES = range(1, 79)

UNTESTED = ("not applicable yet: ", "not run: ", "by command: ")
"""How a row without a test begins to say why."""


@cache
def rows() -> dict[int, str]:
    """What stands in the column of tests, by case."""
    found: dict[int, str] = {}
    for line in (ROOT / "docs" / "reliability.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            assert int(cells[0]) not in found, f"case {cells[0]} has two rows"
            assert len(cells) == 7, f"case {cells[0]}: {len(cells)} cells"
            found[int(cells[0])] = cells[4]
    return found


@cache
def case_tests() -> set[tuple[str, str]]:
    """File and name of every test with a number, at the top of a module."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_case_"):
                found.add((path.relative_to(TESTS).as_posix(), node.name))
    return found


def named_tests(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`([\w/]+\.py)::(\w+)`", text)


def numbers_of(test: str) -> list[int]:
    """The cases in the name of a test: one, or several."""
    found = re.match(r"test_case_((?:\d+_)+)", test)
    assert found, f"{test}: test_case_NN_what_happens"
    # Counts may follow: test_case_33_100_cancelled is of case 33 alone.
    return [int(number) for number in found[1].split("_")[:-1] if int(number) in CASES]


def test_every_case_has_a_row() -> None:
    assert sorted(rows()) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_row_names_its_tests_or_says_why_there_is_none(case: int) -> None:
    text = rows()[case]
    named = named_tests(text)
    if not named:
        assert text.startswith(UNTESTED), f"case {case}: {text!r}"
        return
    missing = [f"{file}::{name}" for file, name in named if (file, name) not in case_tests()]
    assert not missing, f"case {case} names tests that do not exist: {missing}"
    assert any(case in numbers_of(name) for _, name in named), f"case {case} names tests of other cases only"


def test_every_numbered_test_stands_in_the_row_of_its_case() -> None:
    lost = [
        f"{file}::{name}"
        for file, name in sorted(case_tests())
        if not any((file, name) in named_tests(rows().get(number, "")) for number in numbers_of(name))
    ]
    assert not lost, f"tests that no row of their case names: {lost}"
