"""What the tests of scoring share: one small trained workspace, which none of them changes, and its rankings."""

import pandas as pd
import pytest
from small_candidates import changed, make_workspace, read_ranked

from pipeline.run_config import RunConfig
from pipeline.score.run import score


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return make_workspace(tmp_path_factory.mktemp("score"))


@pytest.fixture(scope="session")
def ranked(trained: RunConfig) -> pd.DataFrame:
    """What the trained run ranks of the usual candidates, 5 of each."""
    return read_ranked(score(trained))


@pytest.fixture(scope="session")
def everything(trained: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """All candidates, ranked."""
    return read_ranked(score(changed(trained, tmp_path_factory.mktemp("all"), score={"top_k": 1_000})))
