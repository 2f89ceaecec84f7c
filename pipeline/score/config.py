"""The `score` section: the candidate sets, the fusion of tasks, how many to keep."""

from pydantic import Field

from pipeline.config import Section
from pipeline.preprocess.config import SourceConfig


class ScoreConfig(Section):
    candidates: SourceConfig
    items_column: str = Field(description="the list column of the candidates' items; its values match the item key")
    fusion: str = Field(description="the fused score, over the model's outputs: click * purchase ** 0.5")
    top_k: int = Field(10, ge=1, description="candidates kept per request")
    batch_size: int = Field(8192, ge=1)
