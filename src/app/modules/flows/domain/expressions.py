"""Expressions: what a conditional asks of JSON, and nothing that could do harm.

Comparison, boolean and arithmetic operators, ``in``, subscripts and dotted access to JSON values,
and the functions below. There is no attribute of an object in it, no method and no loop.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from simpleeval import InvalidExpression, SimpleEval

from app.kernel.errors import Invalid

TEXT_LIMIT_CHARS: Final = 1024
DEPTH_LIMIT: Final = 32
# What one evaluation may look at: members of lists and objects, and every 64 characters.
WORK_LIMIT: Final = 100_000
CHARS_A_STEP: Final = 64
MADE_LIMIT_CHARS: Final = 100_000
NUMBER_LIMIT: Final = 10**300
DIGITS_LIMIT: Final = 20

NAMES: Final = ("input", "outputs", "metadata")
WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None}

_ALLOWED: Final = (
    ast.Expression,
    ast.BoolOp,
    ast.boolop,
    ast.UnaryOp,
    ast.Not,
    ast.USub,
    ast.UAdd,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.FloorDiv,
    ast.Mod,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
    ast.In,
    ast.NotIn,
    ast.Call,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.List,
    ast.Tuple,
    ast.Constant,
    ast.Load,
)
_FAILURES: Final = (
    InvalidExpression,
    ArithmeticError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

Number: TypeAlias = int | float


class ExpressionInvalid(Invalid):
    """This is no expression."""

    title = "Expression invalid"


class ExpressionFailed(Invalid):
    """The expression has no answer for these values."""

    title = "Expression failed"


class _Tree(msgspec.Struct, frozen=True):
    """A list or an object on its way through the evaluator, which would look into every corner of
    it at every step.
    """

    value: Any

    def __bool__(self) -> bool:
        return bool(self.value)


class Expression:
    """One that ``compile_expression`` has let through."""

    def __init__(self, text: str, tree: ast.expr) -> None:
        self._text = text
        self._tree = tree

    def __repr__(self) -> str:
        return f"Expression({self._text!r})"

    def holds(self, names: Mapping[str, Any]) -> bool:
        """Whether it is true of ``input``, ``outputs`` and ``metadata``. ``ExpressionFailed`` for
        a name that is not there, values that do not go together, a limit, and for an answer that
        is neither true nor false.
        """
        try:
            answer = _Evaluation(self._text, names).of(self._tree)
        except _FAILURES as error:
            raise ExpressionFailed(f"{self._text!r} fails: {_reason(error)}.") from None
        if not isinstance(answer, bool):
            raise ExpressionFailed(f"{self._text!r} is neither true nor false; compare it.")
        return answer


def compile_expression(text: str) -> Expression:
    """Check everything that can be checked before there are values; ``ExpressionInvalid``."""
    if len(text) > TEXT_LIMIT_CHARS:
        raise ExpressionInvalid(f"An expression has {TEXT_LIMIT_CHARS} characters at most.")
    try:
        with warnings.catch_warnings():
            # What Python finds strange is refused below, or means what it says.
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ExpressionInvalid(f"{text!r} is no expression.") from None
    _check(tree.body, text)
    return Expression(text, tree.body)


def _check(tree: ast.expr, text: str) -> None:
    level: list[ast.expr] = [tree]
    for _ in range(DEPTH_LIMIT):
        parts = [part for node in level for part in _parts(node)]
        for one in (*level, *parts):
            if (why := _objection(one)) is not None:
                raise ExpressionInvalid(f"{text!r}: {why}.")
        level = [part for part in parts if isinstance(part, ast.expr)]
        if not level:
            return
    raise ExpressionInvalid(f"{text!r} is nested deeper than {DEPTH_LIMIT} levels.")


def _parts(node: ast.expr) -> list[ast.AST]:
    """Operators, and what is evaluated for this node: the function's name of a call is not."""
    return list(node.args) if isinstance(node, ast.Call) else list(ast.iter_child_nodes(node))


def _objection(node: ast.AST) -> str | None:
    if not isinstance(node, _ALLOWED):
        return f"{type(node).__name__} is not among what an expression may have"
    if isinstance(node, ast.Name) and node.id not in (*NAMES, *WORDS):
        return f"there is no {node.id!r}; there are {', '.join((*NAMES, *WORDS))}"
    if isinstance(node, ast.Attribute) and node.attr.startswith("__"):
        return f"{node.attr!r} is not looked up after a dot"
    if isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float | None):
        return f"{node.value!r} is no JSON"
    return _call_objection(node) if isinstance(node, ast.Call) else None


def _call_objection(call: ast.Call) -> str | None:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name not in ARGUMENTS:
        return f"the functions are {', '.join(sorted(ARGUMENTS))}"
    least, most = ARGUMENTS[name]
    if call.keywords or not least <= len(call.args) <= most:
        return f"{name} takes {least} to {most} values, without names"
    return None


# How many values each function takes.
ARGUMENTS: Final[Mapping[str, tuple[int, int]]] = {
    "abs": (1, 1),
    "contains": (2, 2),
    "ends_with": (2, 2),
    "get": (2, 3),
    "len": (1, 1),
    "lower": (1, 1),
    "max": (1, 16),
    "min": (1, 16),
    "round": (1, 2),
    "starts_with": (2, 2),
    "upper": (1, 1),
}


class _Evaluation:
    """One evaluation, and how much it may still look at."""

    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        self._text = text
        self._left = WORK_LIMIT
        known = {name: _wrapped(value) for name, value in names.items()}
        functions = {name: getattr(self, f"_{name}") for name in ARGUMENTS}
        self._evaluator = SimpleEval(self._operators(), functions, {**WORDS, **known})
        self._evaluator.nodes |= {
            ast.Attribute: lambda node: self._at(self.of(node.value), node.attr),
            ast.Subscript: lambda node: self._at(self.of(node.value), self.of(node.slice)),
            ast.List: lambda node: _Tree([_plain(self.of(one)) for one in node.elts]),
            ast.Tuple: lambda node: _Tree([_plain(self.of(one)) for one in node.elts]),
        }

    def of(self, tree: ast.expr) -> Any:
        return self._evaluator.eval(self._text, tree)

    def _operators(self) -> dict[type[ast.AST], Callable[..., Any]]:
        return {
            ast.Not: operator.not_,
            ast.USub: lambda one: -_number(one),
            ast.UAdd: _number,
            ast.Add: self._add,
            ast.Sub: _arithmetic(operator.sub),
            ast.Mult: _arithmetic(operator.mul),
            ast.Div: _arithmetic(operator.truediv),
            ast.FloorDiv: _arithmetic(operator.floordiv),
            ast.Mod: _arithmetic(operator.mod),
            ast.Eq: self._equal,
            ast.NotEq: lambda one, other: not self._equal(one, other),
            ast.Lt: self._ordered(operator.lt),
            ast.LtE: self._ordered(operator.le),
            ast.Gt: self._ordered(operator.gt),
            ast.GtE: self._ordered(operator.ge),
            ast.In: lambda one, other: self._contains(other, one),
            ast.NotIn: lambda one, other: not self._contains(other, one),
        }

    def _at(self, value: Any, key: Any) -> Any:
        """A member of an object, or one of a list."""
        inner = _plain(value)
        if isinstance(inner, dict) and isinstance(key, str):
            if key not in inner:
                raise LookupError(f"there is no {key[:64]!r}")
            return _wrapped(inner[key])
        if isinstance(inner, list) and _is_index(key):
            if not -len(inner) <= key < len(inner):
                raise LookupError(f"there is no item {key}")
            return _wrapped(inner[key])
        raise TypeError(f"{_kind(inner)} has no members like that")

    def _add(self, one: Any, other: Any) -> Any:
        if not (isinstance(one, str) and isinstance(other, str)):
            return _arithmetic(operator.add)(one, other)
        if len(one) + len(other) > MADE_LIMIT_CHARS:
            raise ValueError("the text would be too long")
        return one + other

    def _equal(self, one: Any, other: Any) -> bool:
        mine, theirs = self._read(one), self._read(other)
        # Python takes true for 1.
        if isinstance(mine, bool) or isinstance(theirs, bool):
            return mine is theirs
        return bool(mine == theirs)

    def _ordered(self, compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
        def ask(one: Any, other: Any) -> bool:
            if isinstance(one, str) and isinstance(other, str):
                return compare(self._read(one), self._read(other))
            return compare(_number(one), _number(other))

        return ask

    def _contains(self, whole: Any, part: Any) -> bool:
        inner = self._read(whole)
        if isinstance(inner, str | dict) and not isinstance(part, str):
            raise TypeError(f"{_kind(inner)} contains texts, and not {_kind(part)}")
        if isinstance(inner, list):
            return any(self._equal(_wrapped(one), part) for one in inner)
        if isinstance(inner, str | dict):
            return part in inner
        raise TypeError(f"{_kind(inner)} contains nothing")

    def _get(self, value: Any, path: Any, default: Any = None) -> Any:
        """Look up ``a.b.0``; ``default`` where there is nothing."""
        for step in _text(path).split("."):
            inner = _plain(value)
            key = int(step) if isinstance(inner, list) and step.isdecimal() else step
            try:
                value = self._at(value, key)
            except (LookupError, TypeError):
                return default
        return value

    def _len(self, value: Any) -> int:
        inner = _plain(value)
        if not isinstance(inner, str | list | dict):
            raise TypeError(f"{_kind(inner)} has no length")
        return len(inner)

    def _lower(self, text: Any) -> str:
        return _text(self._read(text)).lower()

    def _upper(self, text: Any) -> str:
        return _text(self._read(text)).upper()

    def _starts_with(self, text: Any, start: Any) -> bool:
        return _text(text).startswith(_text(start))

    def _ends_with(self, text: Any, end: Any) -> bool:
        return _text(text).endswith(_text(end))

    def _abs(self, number: Any) -> Number:
        return abs(_number(number))

    def _round(self, number: Any, digits: Any = 0) -> Number:
        if not _is_index(digits) or abs(digits) > DIGITS_LIMIT:
            raise ValueError(f"round takes {DIGITS_LIMIT} digits at most")
        return round(_number(number), digits)

    def _min(self, *values: Any) -> Any:
        return min(self._ranked(values))

    def _max(self, *values: Any) -> Any:
        return max(self._ranked(values))

    def _ranked(self, values: tuple[Any, ...]) -> list[Any]:
        """What is compared: the values, or those of a single list; numbers only, or texts only."""
        given = self._read(values[0]) if len(values) == 1 else list(values)
        if not isinstance(given, list) or not given:
            raise TypeError("there is nothing to choose from")
        check = _text if isinstance(given[0], str) else _number
        return [check(self._read(one)) for one in given]

    def _read(self, value: Any) -> Any:
        """The value itself, when all of it may be looked at."""
        waiting = [_plain(value)]
        while waiting:
            inner = waiting.pop()
            self._left -= 1 + (len(inner) // CHARS_A_STEP if isinstance(inner, str) else 0)
            if isinstance(inner, list | dict):
                if len(inner) > self._left:
                    self._left = -1
                else:
                    waiting.extend(inner.values() if isinstance(inner, dict) else inner)
            if self._left < 0:
                raise ValueError("it looks at more than an expression may")
        return _plain(value)


def _arithmetic(calculate: Callable[[Any, Any], Number]) -> Callable[[Any, Any], Number]:
    def ask(one: Any, other: Any) -> Number:
        return _number(calculate(_number(one), _number(other)))

    return ask


def _number(value: Any) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{_kind(_plain(value))} is no number")
    if isinstance(value, int) and abs(value) > NUMBER_LIMIT:
        raise ValueError("the number is too large")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{_kind(_plain(value))} is no text")
    return value


def _is_index(key: Any) -> bool:
    return isinstance(key, int) and not isinstance(key, bool)


def _wrapped(value: Any) -> Any:
    return _Tree(value) if isinstance(value, list | dict) else value


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Tree) else value


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", dict: "an object", list: "a list", str: "a text"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the values are nested too deep"
    return str(error).rstrip(".") or type(error).__name__
