"""What the tests of `gatehouse submit` share: a configuration to ship, and an address where no cluster is."""

from pathlib import Path
from typing import Any

import yaml

NOWHERE = "127.0.0.1:1"


def write_config(settings: dict[str, Any], folder: Path) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**settings, "workspace": str(folder / "run")}))
    return path
