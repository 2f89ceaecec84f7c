"""The fusion grammar against Python's own: the same text means the same arithmetic, and everything else is refused."""

import ast
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from refused_texts import refusal_of

from pipeline.errors import ConfigError
from pipeline.score.formula import parse_fusion
from pipeline.score.grammar import MAX_EXPONENT, MAX_LENGTH

Floats = NDArray[np.float64]

COLUMNS: dict[str, Floats] = {
    "click": np.array([0.0, 0.1, 0.5, 0.9, 1.0]),
    "joint_like": np.array([0.3, 0.0, 1.0, 0.25, 1e-30]),
    "watch": np.array([-12.5, 0.0, 3.0, 700.0, 1e5]),
    # A task may be called like a function.
    "exp": np.array([2.0, 3.0, 4.0, 5.0, 6.0]),
}
OPERATORS: dict[type, Any] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
}
FUNCTIONS: dict[str, Any] = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt}


def by_python(node: ast.expr) -> Floats:
    """The value of a tree that Python parsed, by numpy."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            value = OPERATORS[type(op)](by_python(left), by_python(right))
        case ast.UnaryOp(op=op, operand=operand):
            value = OPERATORS[type(op)](by_python(operand))
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            value = FUNCTIONS[name](by_python(argument))
        case ast.Name(id=name):
            value = COLUMNS[name]
        case ast.Constant(value=float() | int() as number):
            value = np.float64(number)
        case _:
            raise AssertionError(ast.dump(node))
    return np.asarray(value)


def read_by_python(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def has_name(node: ast.expr) -> bool:
    functions = {id(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
    return any(isinstance(name, ast.Name) and id(name) not in functions for name in ast.walk(node))


def has_small_exponents(tree: ast.expr) -> bool:
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    return all(has_name(power.right) or abs(by_python(power.right)) <= MAX_EXPONENT for power in powers)


def assert_means_what_python_means(text: str) -> None:
    with np.errstate(all="ignore"):
        expected = by_python(read_by_python(text))
    np.testing.assert_array_equal(parse_fusion(text, COLUMNS)(COLUMNS), expected, strict=True)


NUMBERS = st.one_of(st.integers(0, 9), st.floats(0, 10), st.sampled_from([1e-5, 2.5e-300, 1e6, 0.5]))
LEAVES: st.SearchStrategy[ast.expr] = st.one_of(
    st.sampled_from(sorted(COLUMNS)).map(ast.Name), NUMBERS.map(ast.Constant)
)


def grow(inner: st.SearchStrategy[ast.expr]) -> st.SearchStrategy[ast.expr]:
    binary = st.sampled_from([ast.Add(), ast.Sub(), ast.Mult(), ast.Div(), ast.Pow(), ast.Pow()])
    calls = st.builds(
        lambda name, inside: ast.Call(ast.Name(name), [inside], []), st.sampled_from(sorted(FUNCTIONS)), inner
    )
    return st.one_of(
        st.builds(ast.BinOp, inner, binary, inner),
        st.builds(ast.UnaryOp, st.sampled_from([ast.USub(), ast.UAdd()]), inner),
        calls,
    )


@settings(max_examples=400)
@given(st.recursive(LEAVES, grow, max_leaves=12), st.randoms(use_true_random=False))
def test_a_formula_means_what_python_means_by_it(tree: ast.expr, random: Any) -> None:
    # Python's own printer writes only the parentheses that Python's precedence needs.
    text = ast.unparse(tree)
    text = "".join(random.choice([" ", "", "  ", "\t"]) if letter == " " else letter for letter in text)
    with np.errstate(all="ignore"):
        assume(len(text) <= MAX_LENGTH and has_name(tree) and has_small_exponents(tree))
    assert_means_what_python_means(text)


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("-click ** 2", -9.0),
        ("(-click) ** 2", 9.0),
        ("2 ** -1 * click", 1.5),
        ("2 ** -click ** 2", 2.0**-9),
        ("click ** 2 ** 3", 6561.0),
        ("(click ** 2) ** 3", 729.0),
        ("10 - click - 2", 5.0),
        ("12 / click / 2", 2.0),
        ("12 / click * 2", 8.0),
        ("- - + -click", -3.0),
        ("2 + click * 4", 14.0),
        ("(2 + click) * 4", 20.0),
        ("1.5e1 + .5 + 2. - .5E-1 * click", 17.35),
        ("sqrt(click + 6) * exp(0) * log(1) + click", 3.0),
        ("exp + click", 5.0),
        ("exp(exp) - exp(2)", 0.0),
    ],
)
def test_precedence_is_pythons(formula: str, value: float) -> None:
    columns = {"click": np.array([3.0]), "exp": np.array([2.0])}
    assert parse_fusion(formula, columns)(columns).tolist() == pytest.approx([value], abs=1e-15)


def test_a_value_that_is_not_finite_stays_so() -> None:
    score = parse_fusion("log(click) + 0 / (1 - click)", COLUMNS)(COLUMNS)
    assert np.isneginf(score[0])
    assert np.isfinite(score[1:4]).all()
    assert np.isnan(score[4])


def test_a_fusion_says_which_outputs_it_reads() -> None:
    assert parse_fusion("click * exp(joint_like - click)", COLUMNS).names == {"click", "joint_like"}


@pytest.mark.parametrize(
    ("formula", "what"),
    [
        ("", "ends too early"),
        ("   ", "ends too early"),
        ("click *", "ends too early"),
        ("click ** ", "ends too early"),
        ("click click", "'click' where an operator or the end should be"),
        ("2 click", "'click' where an operator or the end should be"),
        ("1_000 * click", "'_000' where an operator"),
        ("0x10 * click", "'x10' where an operator"),
        ("click.__class__", "'.', which is not in its grammar"),
        ("click.real", "'.'"),
        ("click[0]", "'['"),
        ("{click}", "'{'"),
        ("'click'", '"\'"'),
        ('"click"', "'\"'"),
        ("click\\n", "which is not in its grammar"),
        ("click == 1", "'='"),
        ("click < 1", "'<'"),
        ("click % 2", "'%'"),
        ("click // 2", "'/' where a number or a name should be"),
        ("click, watch", "','"),
        ("click; watch", "';'"),
        ("click := 1", "':'"),
        ("lambda: click", "':'"),
        ("lambda click", "names 'lambda'"),
        ("(lambda)", "names 'lambda'"),
        ("click if watch else exp", "'if' where an operator"),
        ("click and watch", "'and' where an operator"),
        ("click @ watch", "'@'"),
        ("click & watch", "'&'"),
        ("`id`", "'`'"),
        ("click #", "'#'"),
        ("click(1)", "'(' where an operator"),
        ("exp exp(click)", "'exp' where an operator"),
        ("log", "names 'log'"),
        ("exp(click, watch)", "','"),
        ("exp()", "')' where a number or a name should be"),
        ("eval(click)", "names 'eval'"),
        ("__import__('os').system('true')", '"\'", which is not in its grammar'),
        ("__import__(os)", "names '__import__'"),
        ("print(click)", "names 'print'"),
        ("open(click)", "names 'open'"),
        ("None", "names 'None'"),
        ("inf * click", "names 'inf'"),
        ("nan * click", "names 'nan'"),
        ("(click", "a parenthesis that is not closed"),
        ("exp(click", "a parenthesis that is not closed"),
        ("click)", "')' where an operator"),
        ("()", "')' where a number"),
        ("*click", "'*' where a number"),
        ("** click", "'**' where a number"),
        ("click *** 2", "'*' where a number"),
        ("2 * 3", "names no output of the model"),
        ("exp(1)", "names no output of the model"),
        ("9**9**9**9", "the exponent 3.8742e+08"),
        ("click * 9**9**9**9", "the exponent 3.8742e+08"),
        ("click ** 101", "the exponent 101"),
        ("click ** -101", "the exponent -101"),
        ("click ** (50 * 3)", "the exponent 150"),
        ("click ** (1 / 0)", "the exponent inf"),
        ("click ** (0 / 0)", "the exponent nan"),
        ("click * 1000001", "the number 1e+06, above"),
        ("click * 1e999", "the number inf"),
        ("click * " + "9" * 480, "the number inf"),
        ("click ** 1e999999999", "the number inf"),
        # Digits, letters, blanks and signs that only look like those of the grammar.
        ("click * \u0663", "'\u0663'"),
        ("click * 2\u00b3", "'\u00b3'"),
        ("click * \uff13", "'\uff13'"),
        ("\u0441lick", "'\u0441'"),
        ("clické", "'é'"),
        ("click\u00a0* 2", "'\\xa0'"),
        ("click * 2\u2003", "'\\u2003'"),
        ("click \u2212 1", "'\u2212'"),
        ("click \u00d7 2", "'\u00d7'"),
        ("click\x00", "'\\x00'"),
        ("click \ud800", "'\\ud800'"),
        ("(" * 10_000, "10,000 characters"),
        ("(" * 10_000 + "click" + ")" * 10_000, "20,005 characters"),
        ("(" * 100 + "click" + ")" * 100, "nested more than 30 deep"),
        ("-" * 400 + "click", "nested more than 30 deep"),
        ("**".join(["click"] * 70), "nested more than 30 deep"),
        ("exp(" * 60 + "click" + ")" * 60, "nested more than 30 deep"),
        ("click + " * 1_250_000, "10,000,000 characters"),
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_what_is_not_in_the_grammar_is_refused_at_once(formula: str, what: str) -> None:
    error = refusal_of(lambda: parse_fusion(formula, COLUMNS))
    assert what in error.what
    assert error.what.startswith("score.fusion ")


@pytest.mark.parametrize("formula", ["+".join(["click"] * 80), "click" + "+1" * 247, "click*" * 82 + "click"])
def test_the_longest_formulas_are_parsed_and_evaluated(formula: str) -> None:
    assert len(formula) <= MAX_LENGTH
    assert_means_what_python_means(formula)


def test_a_misspelt_output_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fusion("clik * joint_like", COLUMNS)
    assert str(caught.value) == (
        "score.fusion 'clik * joint_like' names 'clik', which is not an output of the model. Did you mean 'click'."
    )
    with pytest.raises(ConfigError, match="Choose from click, exp, joint_like, watch"):
        parse_fusion("q", COLUMNS)


TOKENS = [
    *COLUMNS,
    "log",
    "sqrt",
    "0",
    "2",
    ".5",
    "1e2",
    "1e400",
    "+",
    "-",
    "*",
    "/",
    "**",
    "(",
    ")",
    " ",
    "%",
    "é",
    "clik",
]


@settings(max_examples=600)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(TOKENS), max_size=14).map(" ".join)))
def test_any_text_is_refused_or_means_what_python_means_by_it(text: str) -> None:
    try:
        parse_fusion(text, COLUMNS)
    except ConfigError:
        return
    assert_means_what_python_means(text)
