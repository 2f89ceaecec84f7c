"""The refusal of a text by a parser, which must not take long whatever the text is."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import ConfigError

# A text of the greatest length takes about 5,000; the clock of a busy machine says less.
MAX_CALLS = 20_000


def refusal_of(parse: Callable[[], Any]) -> ConfigError:
    """The one error that `parse` raises, after no more than so many calls of functions."""
    num_calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        with pytest.raises(ConfigError) as caught:
            parse()
    finally:
        sys.setprofile(before)
    assert num_calls <= MAX_CALLS
    assert len(str(caught.value)) < 400
    assert caught.value.fix
    assert caught.value.exit_code == 2
    return caught.value
