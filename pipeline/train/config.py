"""The `model` and `train` sections: the architecture, the optimizers, the loop."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, PositiveInt, model_validator

from pipeline.config import Section


class ChoiceConfig(Section):
    """One entry of the catalogue with its options, which are checked against that entry's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


Positive = Annotated[FiniteFloat, Field(gt=0)]
EmbeddingDim = Annotated[int, Field(ge=4, multiple_of=4)]


class AttentionConfig(Section):
    """Reads a history by attention to one feature of the row (DIN), instead of as a mean."""

    target: str = Field(description="the feature that the items of the history are compared with; shares their table")
    widths: tuple[PositiveInt, ...] = Field((32,), min_length=1, description="hidden layers of the activation unit")


class FrontEndConfig(Section):
    """Embedding widths, how histories are read, and the projection of the numeric inputs."""

    embedding_dim: EmbeddingDim = Field(16, description="width of every table not named below")
    embedding_dims: dict[str, EmbeddingDim] = Field(default_factory=dict, description="width by table name")
    num_embeddings: dict[str, int] = Field(
        default_factory=dict, description="rows by table name; default: what the dataset needs"
    )
    attention: dict[str, AttentionConfig] = Field(default_factory=dict, description="by history; default: its mean")
    dense_width: int = Field(32, ge=1, description="width of the projection of all numeric inputs")


class ModelConfig(Section):
    front_end: FrontEndConfig = FrontEndConfig()
    interaction: ChoiceConfig | None = Field(None, description="mixes the inputs before the body")
    body: ChoiceConfig = ChoiceConfig(kind="mmoe")
    head: ChoiceConfig = ChoiceConfig(kind="independent")
    tower_widths: tuple[PositiveInt, ...] = Field((32,), description="hidden layers of each task's tower")
    balancer: ChoiceConfig = ChoiceConfig(kind="fixed")
    task_weights: dict[str, Positive] = Field(default_factory=dict, description="loss weight by task; default 1")
    positive_weights: dict[str, Positive] = Field(
        default_factory=dict, description="weight of rows with label 1 by binary task; probabilities stay calibrated"
    )
    huber_deltas: dict[str, Positive] = Field(
        default_factory=dict, description="by regression task: Huber's loss, linear beyond so many deviations"
    )


class SparseOptimizerConfig(Section):
    """The optimizer fused into the embedding tables' backward pass."""

    kind: Literal["sgd", "adagrad", "rowwise_adagrad"] = "rowwise_adagrad"
    learning_rate: float = Field(0.05, gt=0)
    eps: float = Field(1e-8, gt=0)


class DenseOptimizerConfig(Section):
    kind: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)


class ShardingConfig(Section):
    """How tables are placed on ranks: one type for all, exceptions by table name."""

    default: Literal["auto", "table_wise", "row_wise"] = "auto"
    tables: dict[str, Literal["table_wise", "row_wise"]] = Field(default_factory=dict)


class EarlyStoppingConfig(Section):
    patience: int = Field(1, ge=1, description="validations without improvement before training stops")
    min_improvement: float = Field(0.0, ge=0)


class TrainConfig(Section):
    num_ranks: int | None = Field(None, ge=1, description="default: one per GPU, or 1 on CPU")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_epochs: int = Field(3, ge=1)
    global_batch_size: int = Field(1024, ge=1)
    num_lanes: int = Field(8, ge=1, description="independent row streams; a multiple of every rank count you will use")
    block_rows: int = Field(512, ge=1, description="rows that stay together when the epoch is permuted")
    window_blocks: int = Field(16, ge=1, description="blocks that a lane shuffles together")
    sparse_optimizer: SparseOptimizerConfig = SparseOptimizerConfig()
    dense_optimizer: DenseOptimizerConfig = DenseOptimizerConfig()
    learning_rate_decay: Literal["none", "linear"] = Field(
        "none", description="linear: both learning rates fall to 0 at the end of max_epochs"
    )
    max_gradient_norm: float | None = Field(None, gt=0, description="clips the dense parameters' global norm")
    sharding: ShardingConfig = ShardingConfig()
    early_stopping: EarlyStoppingConfig | None = EarlyStoppingConfig()
    validate_every_steps: int | None = Field(None, ge=1, description="default: at the end of each epoch")
    checkpoint_every_steps: int | None = Field(None, ge=1, description="default: with each validation")
    keep_checkpoints: int = Field(2, ge=1, description="the newest ones; the best one is kept besides")
    log_every_steps: int = Field(20, ge=1)
    inspect_every_steps: int | None = Field(50, ge=1, description="looks at gates and gradients; null: never")
    collective_timeout_seconds: int = Field(300, ge=1)
    max_failures: int = Field(3, ge=0, description="restarts of the worker group after a lost process")

    @model_validator(mode="after")
    def _lanes_fit(self) -> "TrainConfig":
        if self.global_batch_size % self.num_lanes:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of num_lanes {self.num_lanes}"
            )
        if self.num_ranks and self.num_lanes % self.num_ranks:
            raise ValueError(f"num_lanes {self.num_lanes} is not a multiple of num_ranks {self.num_ranks}")
        return self
