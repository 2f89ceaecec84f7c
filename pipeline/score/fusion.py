"""The fused score: a small formula over task outputs, parsed by its own grammar and evaluated on columns.

    sum     = product (("+" | "-") product)*
    product = sign (("*" | "/") sign)*
    sign    = ("-" | "+") sign | power
    power   = atom ("**" sign)?
    atom    = number | name | ("exp" | "log" | "sqrt") "(" sum ")" | "(" sum ")"

Precedence is Python's: -a ** 2 is -(a ** 2), and ** groups from the right. There is nothing else: no attributes,
indices, calls of other functions, strings or comparisons.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import nearest
from pipeline.errors import ConfigError

FloatArray = NDArray[np.float64]
Columns = Mapping[str, FloatArray]
Evaluate = Callable[[Columns], FloatArray]

MAX_LENGTH = 500
MAX_DEPTH = 30
MAX_NUMBER = 1e6
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
_TOKEN = re.compile(
    r"[ \t\r\n]*(?:"
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<mark>\*\*|[-+*/()]))"
)


@dataclass(frozen=True)
class Fusion:
    """A parsed formula; calling it with equally long columns gives the fused score of each row."""

    formula: str
    names: frozenset[str]
    evaluate: Evaluate

    def __call__(self, columns: Columns) -> FloatArray:
        """The score of each row: [rows]. A value that is not finite (log 0, division by 0) stays so."""
        with np.errstate(all="ignore"):
            return np.asarray(self.evaluate(columns), np.float64)


def parse_fusion(formula: str, choices: Iterable[str]) -> Fusion:
    """A formula whose names are all among `choices`.

    Raises:
        ConfigError: the formula is not in the grammar, names something else, or has a number out of bounds.
    """
    return _Parser(formula, sorted(choices)).parse()


class _Parser:
    """Recursive descent over the tokens; each method returns a function from columns to values."""

    def __init__(self, formula: str, choices: list[str]) -> None:
        self.formula = formula
        self.choices = choices
        self.names: list[str] = []
        self.depth = 0
        self.place = 0
        self.tokens = self._split()

    def parse(self) -> Fusion:
        evaluate = self._sum()
        if self.place < len(self.tokens):
            raise self._error(f"has {self._peek()!r} where an operator or the end should be")
        if not self.names:
            raise self._error("names no output of the model", f"use one of {', '.join(self.choices)}")
        return Fusion(self.formula, frozenset(self.names), evaluate)

    def _split(self) -> list[tuple[str, str]]:
        if len(self.formula) > MAX_LENGTH:
            raise self._error(f"has {len(self.formula):,} characters, and at most {MAX_LENGTH} are allowed")
        tokens, end = [], 0
        text = self.formula.rstrip(_BLANKS)
        while end < len(text):
            match = _TOKEN.match(text, end)
            if match is None:
                raise self._error(f"has {text[end:].lstrip(_BLANKS)[:1]!r}, which is not in its grammar")
            kind = str(match.lastgroup)
            tokens.append((kind, match[kind]))
            end = match.end()
        return tokens

    def _sum(self) -> Evaluate:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Evaluate:
        return self._chain(("*", "/"), self._sign)

    def _chain(self, marks: tuple[str, ...], operand: Callable[[], Evaluate]) -> Evaluate:
        left = operand()
        while self._peek() in marks:
            left = _binary(self._next(), left, operand())
        return left

    def _sign(self) -> Evaluate:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(f"is nested more than {MAX_DEPTH} deep")
        if self._peek() in ("-", "+"):
            is_negative = self._next() == "-"
            operand = self._sign()
            result: Evaluate = (lambda columns: -operand(columns)) if is_negative else operand
        else:
            result = self._power()
        self.depth -= 1
        return result

    def _power(self) -> Evaluate:
        base = self._atom()
        if self._peek() != "**":
            return base
        self._next()
        num_names = len(self.names)
        exponent = self._sign()
        if len(self.names) == num_names:
            with np.errstate(all="ignore"):
                value = float(exponent({}))
            # Written so that it is true for NaN.
            if not abs(value) <= MAX_EXPONENT:
                raise self._error(f"has the exponent {value:g}, outside of -{MAX_EXPONENT:g} to {MAX_EXPONENT:g}")
        return _binary("**", base, exponent)

    def _atom(self) -> Evaluate:
        kind, text = self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")
        if text == "(":
            return self._parenthesis()
        self.place += 1
        if kind == "number":
            value = np.float64(text)
            if value > MAX_NUMBER:
                raise self._error(f"has the number {value:g}, above {MAX_NUMBER:g}")
            return lambda columns: np.asarray(value)
        if text in FUNCTIONS and self._peek() == "(":
            function, argument = FUNCTIONS[text], self._parenthesis()
            return lambda columns: function(argument(columns))
        if kind == "name":
            if text not in self.choices:
                raise self._error(f"names {text!r}, which is not an output of the model", nearest(text, self.choices))
            self.names.append(text)
            return lambda columns: columns[text]
        raise self._error(f"has {text!r} where a number or a name should be" if text else "ends too early")

    def _parenthesis(self) -> Evaluate:
        self._next()
        inner = self._sum()
        if self._peek() != ")":
            raise self._error("has a parenthesis that is not closed")
        self._next()
        return inner

    def _peek(self) -> str | None:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else None

    def _next(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1][1]

    def _error(self, what: str, fix: str = "") -> ConfigError:
        shown = self.formula if len(self.formula) <= 80 else self.formula[:77] + "..."
        return ConfigError(
            f"score.fusion {shown!r} {what}",
            fix.rstrip("?") or "write a formula such as click * purchase ** 0.5, with + - * / ** ( ) exp log sqrt",
        )


def _binary(mark: str, left: Evaluate, right: Evaluate) -> Evaluate:
    operation = _OPERATORS[mark]
    return lambda columns: operation(left(columns), right(columns))
