"""The demo's configuration with changes to it, and the message where a configuration is refused."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig, load_run_config

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
DEMO = CONFIGS / "demo.yaml"
HOSTILE_SECONDS = 3.0


def refusal(call: Callable[[], Any]) -> str:
    """The message of a ConfigError, which must come soon and fit on a line."""
    start = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        call()
    assert time.perf_counter() - start < HOSTILE_SECONDS
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def set_on_demo(*overrides: str) -> RunConfig:
    return load_run_config(DEMO, overrides)
