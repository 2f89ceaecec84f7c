"""What every entry of the catalogue has: small options for the tests, types and defaults, and a source."""

import inspect
from typing import Any

import pytest
from small_model import BALANCER_OPTIONS, BODY_OPTIONS, HEAD_OPTIONS, INTERACTION_OPTIONS
from torch import nn

from models.catalogue import BALANCERS, BODIES, HEADS, INTERACTIONS


@pytest.mark.parametrize(
    ("what", "catalogue", "options"),
    [
        ("BODIES", BODIES, BODY_OPTIONS),
        ("HEADS", HEADS, HEAD_OPTIONS),
        ("INTERACTIONS", INTERACTIONS, INTERACTION_OPTIONS),
        ("BALANCERS", BALANCERS, BALANCER_OPTIONS),
    ],
)
def test_every_entry_of_the_catalogue_has_small_options(
    what: str, catalogue: dict[str, Any], options: dict[str, Any]
) -> None:
    without = sorted(catalogue.keys() - options.keys())
    assert not without, f"models.catalogue.{what} has {without}: give each a row with small options in small_model.py"
    gone = sorted(options.keys() - catalogue.keys())
    assert not gone, f"the rows {gone} of small_model.py are not in models.catalogue.{what}: remove them"


@pytest.mark.parametrize("entry", [*BODIES.values(), *HEADS.values(), *INTERACTIONS.values(), *BALANCERS.values()])
def test_every_option_has_a_type_and_a_default_that_a_configuration_can_show(entry: type[nn.Module]) -> None:
    for parameter in inspect.signature(entry).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        assert parameter.annotation is not inspect.Parameter.empty
        # A text would be an annotation that was not evaluated.
        assert not isinstance(parameter.annotation, str)
        assert parameter.default is not inspect.Parameter.empty


@pytest.mark.parametrize(
    "entry", [*BODIES.values(), *INTERACTIONS.values(), *(BALANCERS[name] for name in BALANCERS if name != "fixed")]
)
def test_what_comes_from_a_paper_cites_it(entry: type[nn.Module]) -> None:
    module = inspect.getmodule(entry)
    assert module is not None
    first_line = (module.__doc__ or "").splitlines()[0]
    assert any(str(year) in first_line for year in range(1990, 2100)), f"{module.__name__} begins with {first_line!r}"
