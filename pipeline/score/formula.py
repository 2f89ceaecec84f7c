"""Fused scores and filters: small texts, parsed by a grammar of their own and evaluated on columns.

A fusion is a `sum` of `grammar`, such as click * purchase ** 0.5. A filter is a condition:

    any        = all ("or" all)*
    all        = one ("and" one)*
    one        = "not" one | "(" any ")" | comparison
    comparison = value ("<" | "<=" | ">" | ">=" | "==" | "!=") value
               | value "not"? "in" "(" constant ("," constant)* ")"
               | value "is" "not"? "null"
    value      = sum | text in quotes

A null, and a number that is none, makes a comparison false, also != and `not in`; then `not` makes it true. Texts are
ordered by their code points.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.score.grammar import FILTER_TOKEN, FUSION_TOKEN, Columns, FloatArray, Numbers, Operand, Parser

BoolArray = NDArray[np.bool_]
Condition = Callable[[Columns], BoolArray]

MAX_NUMBER = 1e6
# Above it not every whole number is one of float64.
MAX_FILTER_NUMBER = float(2**53 - 1)
# For numbers and for texts.
COMPARISONS: dict[str, tuple[np.ufunc, Callable[[pa.Array, pa.Array], pa.Array]]] = {
    "<": (np.less, pc.less),
    "<=": (np.less_equal, pc.less_equal),
    ">": (np.greater, pc.greater),
    ">=": (np.greater_equal, pc.greater_equal),
    "==": (np.equal, pc.equal),
    "!=": (np.not_equal, pc.not_equal),
}
KEYWORDS = ("and", "or", "not", "in", "is", "null")
FUSION_EXAMPLE = "write a formula such as click * purchase ** 0.5, with + - * / ** ( ) exp log sqrt"
FILTER_EXAMPLE = "write a condition such as price < 100 and category != 'adult', with < <= > >= == != in is null"


@dataclass(frozen=True)
class Fusion:
    """A parsed formula; calling it with equally long columns gives the fused score of each row."""

    formula: str
    names: frozenset[str]
    numbers: Numbers

    def __call__(self, columns: Columns) -> FloatArray:
        """The score of each row: [rows]. A value that is not finite (log 0, division by 0) stays so.

        Raises:
            ConfigError: a column holds no numbers.
        """
        with np.errstate(all="ignore"):
            return self.numbers(columns)


@dataclass(frozen=True)
class Filter:
    """A parsed condition; calling it with equally long columns says which rows fulfil it."""

    text: str
    names: frozenset[str]
    condition: Condition

    def __call__(self, columns: Columns) -> BoolArray:
        """Which rows stay: [rows]. Columns without rows, but of their types, are enough for a check of the types.

        Raises:
            ConfigError: texts are compared with numbers, or a column holds neither.
        """
        with np.errstate(all="ignore"):
            return self.condition(columns)


def parse_fusion(
    formula: str,
    outputs: Iterable[str],
    columns: Iterable[str] = (),
    *,
    where: str = "score.fusion",
    others: str = "column",
) -> Fusion:
    """A formula whose names are all among the model's outputs and the columns, or `others`.

    `where` is the key that messages name.

    Raises:
        ConfigError: the formula is not in the grammar, names something else, or has a number out of bounds.
    """
    parser = _fusion_parser(formula, outputs, columns, where, others)
    fused = parser.sum()
    parser.end()
    return Fusion(formula, frozenset(parser.names), fused.numbers)


def parse_filter(text: str, outputs: Iterable[str], columns: Iterable[str]) -> Filter:
    """A condition on the model's outputs and the columns.

    Raises:
        ConfigError: the text is not in the grammar, names something else, or has a number out of bounds.
    """
    parser = _FilterParser(
        text,
        outputs,
        columns,
        where="score.filters",
        token=FILTER_TOKEN,
        max_number=MAX_FILTER_NUMBER,
        example=FILTER_EXAMPLE,
    )
    condition = parser.any()
    parser.end()
    return Filter(text, frozenset(parser.names), condition)


def bind(formula: str, values: Mapping[str, float]) -> str:
    """The formula with numbers in the place of some of its names.

    Raises:
        ConfigError: the formula has something that is not in the grammar.
    """
    bound, end = "", 0
    for token in _fusion_parser(formula, (), (), "score.sweep.formula").tokens:
        if token.kind == "name" and token.text in values:
            number = repr(float(values[token.text])).removesuffix(".0")
            bound += formula[end : token.start] + (f"({number})" if number.startswith("-") else number)
            end = token.start + len(token.text)
    return bound + formula[end:]


def _fusion_parser(
    formula: str, outputs: Iterable[str], columns: Iterable[str], where: str, others: str = "column"
) -> Parser:
    return Parser(
        formula,
        outputs,
        columns,
        where=where,
        token=FUSION_TOKEN,
        max_number=MAX_NUMBER,
        example=FUSION_EXAMPLE,
        others=others,
    )


class _FilterParser(Parser):
    def any(self) -> Condition:
        condition = self._all()
        while self.peek().text == "or":
            self.next()
            condition = _both(np.logical_or, condition, self._all())
        return condition

    def _all(self) -> Condition:
        condition = self._one()
        while self.peek().text == "and":
            self.next()
            condition = _both(np.logical_and, condition, self._one())
        return condition

    def _one(self) -> Condition:
        self.deepen()
        if self.peek().text == "not":
            self.next()
            inverted = self._one()
            condition: Condition = lambda columns: ~inverted(columns)  # noqa: E731
        elif self.peek().text == "(" and self._holds_condition():
            self.next()
            condition = self.any()
            self.close()
        else:
            condition = self._comparison()
        self.depth -= 1
        return condition

    def _holds_condition(self) -> bool:
        """Whether there is a comparison in the parenthesis that begins here; there is none in arithmetic."""
        depth = 0
        for token in self.tokens[self.place :]:
            depth += (token.text == "(") - (token.text == ")")
            if token.text in COMPARISONS or token.text in KEYWORDS:
                return True
            if depth == 0:
                return False
        return False

    def _comparison(self) -> Condition:
        num_names = len(self.names)
        left, mark = self.sum(), self.peek().text
        if mark in COMPARISONS:
            self.next()
            condition = self._compare(mark, left, self.sum())
        elif mark in ("in", "not"):
            condition = self._in(left)
        elif mark == "is":
            condition = self._is_null(left)
        else:
            raise self.error(f"has {mark!r} where a comparison should be" if mark else "ends without a comparison")
        if len(self.names) == num_names:
            raise self.error("compares constants only", f"compare one of {', '.join(self.choices)}")
        return condition

    def _compare(self, mark: str, left: Operand, right: Operand) -> Condition:
        of_numbers, of_texts = COMPARISONS[mark]

        def compare(columns: Columns) -> BoolArray:
            a, b = self._value(left, columns), self._value(right, columns)
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                found: BoolArray = of_numbers(a, b) & ~np.isnan(a) & ~np.isnan(b)
                return found
            if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
                raise self.error(f"compares {_describe(left, a)} with {_describe(right, b)}")
            return np.asarray(pc.fill_null(of_texts(a, b), False))

        return compare

    def _in(self, left: Operand) -> Condition:
        is_inverted = self.next().text == "not"
        if is_inverted and self.next().text != "in":
            raise self.error("has 'not' where a comparison should be")
        listed = self._constants()
        is_text = pa.types.is_string(listed.type)

        def is_in(columns: Columns) -> BoolArray:
            value = self._value(left, columns)
            if isinstance(value, np.ndarray) == is_text:
                raise self.error(
                    f"compares {_describe(left, value)} with a list of {'texts' if is_text else 'numbers'}"
                )
            if isinstance(value, np.ndarray):
                return np.isin(value, listed, invert=is_inverted) & ~np.isnan(value)
            return _known(pc.invert(pc.is_in(value, listed)) if is_inverted else pc.is_in(value, listed), value)

        return is_in

    def _constants(self) -> pa.Array:
        """The texts or the numbers of a list."""
        if self.next().text != "(":
            raise self.error("has no list in parentheses after 'in'")
        listed: list[str | float] = []
        mark = ","
        while mark == ",":
            sign = -1.0 if self.peek().text == "-" else 1.0
            token = self.next() if sign > 0 else (self.next(), self.next())[1]
            if token.kind == "number":
                listed.append(sign * self.number(token))
            elif token.kind == "text" and sign > 0:
                listed.append(token.text[1:-1])
            else:
                raise self.error(f"has {token.text!r} in a list, which holds texts in quotes or numbers")
            mark = self.next().text
        if mark != ")":
            raise self.error("has a list that is not closed")
        if len({type(one) for one in listed}) > 1:
            raise self.error("has a list of both texts and numbers")
        return pa.array(listed)

    def _is_null(self, left: Operand) -> Condition:
        self.next()
        is_inverted = self.peek().text == "not"
        if is_inverted:
            self.next()
        if self.next().text != "null":
            raise self.error("has 'is' without 'null' or 'not null'")

        def is_null(columns: Columns) -> BoolArray:
            value = self._value(left, columns)
            found = np.isnan(value) if isinstance(value, np.ndarray) else np.asarray(pc.is_null(value))
            return ~found if is_inverted else found

        return is_null

    def column(self, name: str) -> Operand:
        if name in KEYWORDS:
            raise self.error(f"has {name!r} where a number or a name should be")
        return super().column(name)

    def _value(self, operand: Operand, columns: Columns) -> FloatArray | pa.Array | pa.Scalar:
        if operand.kind == "column":
            return self.read(columns, operand.text)
        return pa.scalar(operand.text[1:-1]) if operand.kind == "text" else np.asarray(operand.numbers(columns))


def _known(found: pa.Array, value: pa.Array) -> BoolArray:
    """What was found where a text is known, and false elsewhere."""
    return np.asarray(pc.fill_null(pc.and_(found, pc.is_valid(value)), False))


def _describe(operand: Operand, value: FloatArray | pa.Array | pa.Scalar) -> str:
    if operand.kind == "column":
        return f"the {'numbers' if isinstance(value, np.ndarray) else 'texts'} of {operand.text!r}"
    return f"the text {operand.text}" if operand.kind == "text" else "a number"


def _both(operation: Callable[[BoolArray, BoolArray], BoolArray], one: Condition, other: Condition) -> Condition:
    return lambda columns: operation(one(columns), other(columns))
