"""docs/algorithm.md names things that exist, and every equation of the method."""

import ast
import re
from pathlib import Path

import pytest

from trainer.loss import LOSSES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py):(\w+)`", PAGE)))


def test_the_page_names_every_loss_and_the_step():
    assert {path for path, _ in NAMED} >= {f"trainer/losses/{name}.py" for name in LOSSES}
    assert ("trainer/cgpo_trainer.py", "_iterate") in NAMED


@pytest.mark.parametrize(("path", "function"), NAMED, ids=lambda part: str(part))
def test_a_function_that_the_page_names_exists(path, function):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("equation", ["eq 4", "eq 5", "eq 8", "eq 11", "eq 12", "eq 14", "eq 17", "eq 18"])
def test_the_page_says_where_an_equation_is_and_the_code_cites_it(equation):
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and equation in line]
    assert rows
    paths = {path for row in rows for path, _ in re.findall(r"`([\w/]+\.py):(\w+)`", row)}
    assert any(equation in (ROOT / path).read_text(encoding="utf-8") for path in paths)
