"""Functions are short: at most 60 lines of code."""

import ast
import io
import tokenize
from collections.abc import Iterator

import pytest

from tests.support import ROOT

MOST_LINES = 60
FOLDERS = ("adipocyte", "benchmarks", "entrypoints")
LONGER: dict[str, str] = {}  # by "path:function", the reason


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: no blank line, no comment."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = [
        range(token.start[0], token.end[0] + 1) for token in tokens if token.type not in skipped
    ]
    return {line for span in spans for line in span}


def functions(source: str) -> Iterator[tuple[str, int]]:
    """The functions of a module with their numbers of code lines, docstrings left out."""
    lines = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            own = lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            first = node.body[0]
            if ast.get_docstring(node):
                own -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
            yield node.name, len(own)


def test_the_count_leaves_out_docstrings_comments_and_blank_lines():
    source = (
        'def short():\n    """Say\n    much.\n    """\n\n    # why\n    one = 1\n    return one\n'
    )
    assert list(functions(source)) == [("short", 3)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_have_at_most_sixty_lines(folder):
    found = {
        f"{path.relative_to(ROOT)}:{name}": n_lines
        for path in (ROOT / folder).rglob("*.py")
        for name, n_lines in functions(path.read_text())
    }
    too_long = {name: n for name, n in found.items() if n > MOST_LINES and name not in LONGER}
    assert not too_long
