"""The page of all configuration keys is the one that the classes make."""

import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "infra"))
reference: Any = importlib.import_module("configuration_reference")


def test_the_page_is_the_one_that_the_classes_make() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.render(), (
        "run .venv/bin/python infra/configuration_reference.py"
    )


def test_every_section_and_every_kind_of_the_catalogue_is_on_the_page() -> None:
    page = reference.render()
    for heading in ("The file", "`Preprocess`", "`HistoryFeature`", "`SparseOptimizer`", "`Evaluate`", "`Score`"):
        assert f"\n## {heading}\n" in page
    for entries in reference.CATALOGUE.values():
        assert all(f"| `{kind}` |" in page for kind in entries)
    links = set(reference.re.findall(r"\(#(\w+)\)", page))
    headings = {heading.lower() for heading in reference.re.findall(r"^## `(\w+)`$", page, reference.re.MULTILINE)}
    assert links <= headings
