"""Runs that are killed on the way, and what they leave."""

from pathlib import Path
from typing import Any

from pipeline.executor import InProcessExecutor
from pipeline.files import sha256_of


class Killed(InProcessExecutor):
    """Is killed when so many items are done."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items

    def map(self, function: Any, items: Any) -> Any:
        for result in super().map(function, items):
            self.num_items -= 1
            if self.num_items < 0:
                raise KeyboardInterrupt
            yield result


def content_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder."""
    return {str(file.relative_to(folder)): sha256_of(file) for file in sorted(folder.rglob("*")) if file.is_file()}
