"""A small simulated log and its dataset, made once per test process, and configurations that use them."""

import os
import sys

# Before torch is loaded: threads that spin while they wait slow down every test that shares the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray reads it once, and some tests load Ray before the executor, which sets it, does.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# A group of ranks listens where the machine's name leads, until its last module is collected.
if sys.platform == "linux":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from changed_settings import MakeConfig, merged
from hypothesis import HealthCheck, settings

from pipeline.config import build, read_config
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.simulate.run import simulate

DEMO_CONFIG = Path(__file__).parent.parent / "jobs" / "configs" / "demo.yaml"
NUM_ROWS = 21_000
# No test fails because the machine is busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

if TYPE_CHECKING:
    from s3_store import Store


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-seeds", type=int, default=1, help="how often a fault at a random moment is injected")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault_seed" in metafunc.fixturenames:
        metafunc.parametrize("fault_seed", range(metafunc.config.getoption("fault_seeds")))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated log of a week."""
    folder = tmp_path_factory.mktemp("simulated") / "log"
    simulate(folder, NUM_ROWS, seed=3, num_users=300, num_items=200, num_candidate_requests=20)
    return folder


@pytest.fixture(scope="session")
def demo_settings(simulated: Path) -> dict[str, Any]:
    """The demo's configuration on the small log: one epoch of small batches, small layers."""
    changes = {
        "inputs": str(simulated),
        "model": {
            "front_end": {"embedding_dim": 8},
            "body": {"kind": "mmoe", "num_experts": 3, "widths": [16, 8]},
            "tower_widths": [8],
        },
        "train": {"device": "cpu", "max_epochs": 1, "global_batch_size": 256, "log_every_steps": 1, "num_lanes": 4},
    }
    return merged(read_config(DEMO_CONFIG), changes)


@pytest.fixture(scope="session")
def dataset(demo_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the small log."""
    workspace = tmp_path_factory.mktemp("dataset")
    config = build(RunConfig, {**demo_settings, "workspace": str(workspace)}, "the tests")
    preprocess(config, InProcessExecutor())
    return config.dataset_dir


@pytest.fixture(scope="session")
def s3_server() -> "Iterator[Store]":
    from s3_store import Store

    store = Store()
    yield store
    store.close()


@pytest.fixture
def store(s3_server: "Store", monkeypatch: pytest.MonkeyPatch) -> "Store":
    """A store on loopback that the environment names and has the keys of; nothing waits before it asks again."""
    from s3_store import ACCESS_KEY, SECRET_KEY

    monkeypatch.setattr("pipeline.files.FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.s3.REQUEST_ATTEMPTS", 1)

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server.endpoint),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", os.devnull),
        ("AWS_SHARED_CREDENTIALS_FILE", os.devnull),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    s3_server.forget()
    return s3_server


@pytest.fixture
def bucket(store: "Store") -> str:
    """The location of an empty bucket."""
    return store.new_bucket()


@pytest.fixture
def make_config(demo_settings: dict[str, Any], dataset: Path, tmp_path: Path) -> MakeConfig:
    """A configuration with nested changes, in a workspace of its own that already has the dataset."""

    def make(workspace: str = "run", **changes: Any) -> RunConfig:
        folder = tmp_path / workspace
        if not folder.exists():
            shutil.copytree(dataset, folder / "dataset")
        return build(RunConfig, merged(demo_settings, {"workspace": str(folder), **changes}), "the tests")

    return make
