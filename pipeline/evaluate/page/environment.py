"""The templates of pages that open offline: those of the report, which the pages of others build on."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.evaluate.page.plots import width_of, words_of

TEMPLATES = Path(__file__).parent / "templates"
# A plot that is wider than a phone scrolls in its box, where its numbers stay legible.
PHONE_PIXELS = 350


def open_templates(*folders: Path) -> Environment:
    """The templates of some folders and of the report; what is not defined is an error, and texts are escaped."""
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["words"] = words_of
    environment.tests["wide"] = lambda svg: width_of(svg) > PHONE_PIXELS
    return environment
