"""README's table of faults: each row names a test that is there, and each file of fault tests has a row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPO = Path(__file__).parents[3]
TRAINER_TESTS = REPO / "tests" / "trainer"
# They test the tools, and this table.
NO_FAULTS = {"test_layers.py", "test_table.py"}


def rows() -> list[list[str]]:
    """The cells of each row, test last."""
    _, _, after = (REPO / "README.md").read_text("utf-8").partition("## What can go wrong, and what happens\n")
    section = after.partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def collected_from(path: Path) -> dict[str, list[str]]:
    """The tests that pytest collects from a file, with what they are decorated with."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.name: [ast.unparse(decorator) for decorator in node.decorator_list]
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


def test_each_row_names_a_test_that_runs() -> None:
    assert len(rows()) >= 20
    for cells in rows():
        assert len(cells) == 3, cells
        named = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", cells[2])
        assert named is not None, cells
        path = TRAINER_TESTS / named[1]
        assert path.name.startswith("test_"), named[1]
        decorators = collected_from(path)[named[2]]
        assert "pytest.mark.long" not in decorators, f"{named[2]} is not in the normal suite"
        assert not any("mark.skip(" in decorator for decorator in decorators), named[2]


def test_each_file_of_fault_tests_has_a_row() -> None:
    named = {Path(cells[2].strip("`").partition("::")[0]).name for cells in rows()}
    there = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    assert there - NO_FAULTS <= named
