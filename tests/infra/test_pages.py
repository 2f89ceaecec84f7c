"""The pages people read: their YAML is a configuration that loads, and their links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from changed_settings import merged

from pipeline.config import build
from pipeline.run_config import RunConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "infra").rglob("*.md"))]
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def yaml_blocks() -> list[Any]:
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{place}")
        for page in PAGES
        for place, block in enumerate(YAML_BLOCK.findall(page.read_text()))
    ]


@pytest.mark.parametrize("block", yaml_blocks())
def test_a_yaml_block_is_a_configuration(block: str, demo_settings: dict[str, Any]) -> None:
    """Of a block with a schema all of it; what others leave out is that of the demo."""
    given = yaml.safe_load(block)
    settings = given if "schema" in given else merged(demo_settings, given)
    build(RunConfig, settings, "the page")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    for target, heading in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not heading or heading in anchors(path), f"{target}#{heading}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
