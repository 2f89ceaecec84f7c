"""The grammar of formulas: texts to tokens, and tokens to arithmetic on columns.

    sum     = product (("+" | "-") product)*
    product = sign (("*" | "/") sign)*
    sign    = ("-" | "+") sign | power
    power   = atom ("**" sign)?
    atom    = number | name | ("exp" | "log" | "sqrt") "(" sum ")" | "(" sum ")"

Precedence is Python's: -a ** 2 is -(a ** 2), and ** groups from the right. There is nothing else: no attributes,
indices or calls of other functions. `formula` adds what filters have.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import nearest
from pipeline.errors import ConfigError

FloatArray = NDArray[np.float64]
Columns = Mapping[str, FloatArray | pa.Array | pa.ChunkedArray]
Numbers = Callable[[Columns], FloatArray]

MAX_LENGTH = 500
MAX_DEPTH = 30
MAX_EXPONENT = 100.0
FUNCTIONS: dict[str, Callable[[FloatArray], FloatArray]] = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt}
_OPERATORS: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
}
_BLANKS = " \t\r\n"
_PLAIN_TOKEN = (
    r"[ \t\r\n]*(?:"
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
)
FUSION_TOKEN = re.compile(_PLAIN_TOKEN + r"|(?P<mark>\*\*|[-+*/()]))")
FILTER_TOKEN = re.compile(_PLAIN_TOKEN + r"""|(?P<text>'[^']*'|"[^"]*")""" + r"|(?P<mark>\*\*|[<>=!]=|[-+*/(),<>]))")


class Token(NamedTuple):
    """A piece of a text, which begins at `start`."""

    kind: Literal["number", "name", "text", "mark", "end"]
    text: str
    start: int


class Operand(NamedTuple):
    """What arithmetic and comparisons take: numbers, a text in its quotes, or a column, which may hold either."""

    kind: Literal["numbers", "text", "column"]
    text: str
    numbers: Numbers


class Parser:
    """Recursive descent over the tokens of one text; what it gives are functions from columns to values.

    `where` is the key of the configuration that the text stands under, `example` says what a right one is, and `others`
    what `columns` are.
    """

    def __init__(
        self,
        text: str,
        outputs: Iterable[str],
        columns: Iterable[str],
        *,
        where: str,
        token: re.Pattern[str],
        max_number: float,
        example: str,
        others: str = "column",
    ) -> None:
        self.text, self.where, self.example, self.max_number = text, where, example, max_number
        columns = list(columns)
        self.choices = sorted({*outputs, *columns})
        self.known = f"an output of the model or a {others}" if columns else "an output of the model"
        self.names: list[str] = []
        self.depth = 0
        self.place = 0
        self.tokens = self._split(token)

    def _split(self, pattern: re.Pattern[str]) -> list[Token]:
        if len(self.text) > MAX_LENGTH:
            raise self.error(f"has {len(self.text):,} characters, and at most {MAX_LENGTH} are allowed")
        tokens, end = [], 0
        text = self.text.rstrip(_BLANKS)
        while end < len(text):
            match = pattern.match(text, end)
            if match is None:
                raise self.error(f"has {text[end:].lstrip(_BLANKS)[:1]!r}, which is not in its grammar")
            kind = str(match.lastgroup)
            if kind == "text" and not match[kind].isprintable():
                raise self.error("has a text with a character that cannot be printed")
            tokens.append(Token(kind, match[kind], match.start(kind)))  # type: ignore[arg-type]
            end = match.end()
        return tokens

    def sum(self) -> Operand:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Operand:
        return self._chain(("*", "/"), self._sign)

    def _chain(self, marks: tuple[str, ...], operand: Callable[[], Operand]) -> Operand:
        left = operand()
        while self.peek().text in marks:
            left = self._binary(self.next().text, left, operand())
        return left

    def _sign(self) -> Operand:
        self.deepen()
        if self.peek().text in ("-", "+"):
            is_negative = self.next().text == "-"
            operand = self._numbers(self._sign())
            result = _operand((lambda columns: -operand(columns)) if is_negative else operand)
        else:
            result = self._power()
        self.depth -= 1
        return result

    def _power(self) -> Operand:
        base = self._atom()
        if self.peek().text != "**":
            return base
        self.next()
        num_names = len(self.names)
        exponent = self._sign()
        if len(self.names) == num_names:
            with np.errstate(all="ignore"):
                value = float(self._numbers(exponent)({}))
            # Written so that it is true for NaN.
            if not abs(value) <= MAX_EXPONENT:
                raise self.error(f"has the exponent {value:g}, outside of -{MAX_EXPONENT:g} to {MAX_EXPONENT:g}")
        return self._binary("**", base, exponent)

    def _atom(self) -> Operand:
        if self.peek().text == "(":
            return self.parenthesis()
        token = self.next()
        if token.kind == "number":
            value = self.number(token)
            return _operand(lambda columns: np.asarray(value))
        if token.text in FUNCTIONS and self.peek().text == "(":
            function, argument = FUNCTIONS[token.text], self._numbers(self.parenthesis())
            return _operand(lambda columns: function(argument(columns)))
        if token.kind == "name":
            return self.column(token.text)
        if token.kind == "text":
            return Operand("text", token.text, _no_numbers)
        raise self.error(f"has {token.text!r} where a number or a name should be" if token.text else "ends too early")

    def column(self, name: str) -> Operand:
        if name not in self.choices:
            raise self.error(f"names {name!r}, which is not {self.known}", nearest(name, self.choices))
        self.names.append(name)

        def numbers(columns: Columns) -> FloatArray:
            values = self.read(columns, name)
            if not isinstance(values, np.ndarray):
                raise self.error(f"has {name!r}, which holds texts, where numbers should be")
            return values

        return Operand("column", name, numbers)

    def read(self, columns: Columns, name: str) -> FloatArray | pa.Array:
        """A column of numbers or booleans in float64, NaN for null, or of texts as Arrow strings: [rows]."""
        column = columns[name]
        if isinstance(column, np.ndarray):
            return np.asarray(column, np.float64)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return column.cast(pa.string())
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        if not (is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise self.error(f"has {name!r}, which holds {kind}, neither numbers nor texts")
        return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan), np.float64)

    def number(self, token: Token) -> np.float64:
        value = np.float64(token.text)
        if value > self.max_number:
            raise self.error(f"has the number {value:g}, above {self.max_number:g}")
        return value

    def parenthesis(self) -> Operand:
        self.next()
        inner = self.sum()
        self.close()
        return inner

    def close(self) -> None:
        if self.peek().text != ")":
            raise self.error("has a parenthesis that is not closed")
        self.next()

    def end(self) -> None:
        if self.peek().kind != "end":
            raise self.error(f"has {self.peek().text!r} where an operator or the end should be")
        if not self.names:
            raise self.error(f"names no {self.known.removeprefix('an ')}", f"use one of {', '.join(self.choices)}")

    def deepen(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"is nested more than {MAX_DEPTH} deep")

    def peek(self) -> Token:
        return self.tokens[self.place] if self.place < len(self.tokens) else Token("end", "", len(self.text))

    def next(self) -> Token:
        token = self.peek()
        self.place += 1
        return token

    def _numbers(self, operand: Operand) -> Numbers:
        if operand.kind == "text":
            raise self.error(f"has the text {operand.text} where numbers should be")
        return operand.numbers

    def _binary(self, mark: str, left: Operand, right: Operand) -> Operand:
        operation, first, second = _OPERATORS[mark], self._numbers(left), self._numbers(right)
        return _operand(lambda columns: operation(first(columns), second(columns)))

    def error(self, what: str, fix: str = "") -> ConfigError:
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        return ConfigError(f"{self.where} {shown!r} {what}", fix.rstrip("?") or self.example)


def _no_numbers(columns: Columns) -> FloatArray:
    raise AssertionError("a text is asked for its numbers")


def _operand(numbers: Numbers) -> Operand:
    return Operand("numbers", "", numbers)
