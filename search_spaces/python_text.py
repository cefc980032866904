"""Literals in Python text. The text is parsed and its tree is walked: nothing in it is ever evaluated."""

import ast
import textwrap
from typing import Any, TypeGuard

from bnas.errors import BnasError, check_choice

# Three times the longest genotypes.py that is known (DCP-NAS). Python's parser itself is safe up to here.
LONGEST_TEXT = 2**17
# normal=[[('sep_conv_3x3', 0), ...], ...]: a list of nodes, each a list of edges, each a pair.
DEEPEST_LIST = 3
# No cell has that many nodes.
LONGEST_RANGE = 100
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_WORDS = {"Call": "a call", "Name": "a name", "Attribute": "an attribute", "JoinedStr": "an f-string"}


def parse(text: str) -> ast.Module:
    if len(text) > LONGEST_TEXT:
        raise BnasError(f"{len(text):,} characters; at most {LONGEST_TEXT:,} are read as genotypes")
    try:
        return ast.parse(textwrap.dedent(text.removeprefix("\ufeff")))
    except (RecursionError, MemoryError):
        raise BnasError("this is not a genotype: it is nested too deeply") from None
    except SyntaxError as error:
        raise BnasError(f"line {error.lineno or 1}: not Python ({error.msg})") from None
    except ValueError as error:
        raise BnasError(f"not Python ({error})") from None


def assigned_names(statement: ast.stmt) -> list[str]:
    """The plain names that a statement assigns to."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def is_genotype(value: ast.expr | None) -> TypeGuard[ast.Call]:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Genotype"


def fields_of(call: ast.Call) -> dict[str, Any]:
    """The four fields as lists, strings and whole numbers."""
    given = {str(keyword.arg): keyword.value for keyword in call.keywords}
    for name in given:
        # ** has no name: it arrives here as None.
        check_choice("field of Genotype", name, FIELDS)
    missing = [field for field in FIELDS if field not in given]
    if call.args or missing:
        raise BnasError(
            f"Genotype(...) has its fields by name, {', '.join(f'{field}=...' for field in FIELDS)}; "
            f"it lacks {', '.join(missing) or 'none of them, but has others without a name'}"
        )
    return {field: _literal(given[field], field, DEEPEST_LIST) for field in FIELDS}


def _literal(node: ast.expr, field: str, depth: int) -> Any:
    """The value of a string, a whole number, a list or tuple of such, or a range of numbers."""
    if isinstance(node, ast.Constant) and type(node.value) in (str, int):
        return node.value
    if isinstance(node, ast.List | ast.Tuple) and depth:
        return [_literal(item, field, depth - 1) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range" and depth:
        return _numbers(node, field)
    what = _WORDS.get(type(node).__name__, f"a {type(node).__name__.lower()}")
    raise BnasError(
        f"{field}, line {node.lineno}: {what} does not belong here; strings, whole numbers, range(...), and lists or tuples "
        f"of them, {DEEPEST_LIST} deep at most, are read, and nothing is evaluated"
    )


def _numbers(call: ast.Call, field: str) -> list[int]:
    """range(...) as a list, cut where it is longer than any cell."""
    if call.keywords:
        raise BnasError(f"{field}, line {call.lineno}: range() takes no keyword arguments")
    arguments = [_literal(argument, field, 0) for argument in call.args]
    try:
        return list(range(*arguments)[:LONGEST_RANGE])
    except (TypeError, ValueError) as error:
        raise BnasError(f"{field}, line {call.lineno}: {error}") from None
