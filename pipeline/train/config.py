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
NotNegative = Annotated[FiniteFloat, Field(ge=0)]
Fraction = Annotated[FiniteFloat, Field(ge=0, lt=1)]
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

    kind: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "partial_rowwise_adam"] = Field(
        "rowwise_adagrad", description="the two kinds of Adam run on GPUs only"
    )
    learning_rate: Positive = 0.05
    eps: Positive | None = Field(None, description="default 1e-8; not for sgd")
    betas: tuple[Fraction, Fraction] | None = Field(None, description="of the kinds of Adam; default (0.9, 0.999)")
    weight_decay: NotNegative = Field(0.0, description="on GPUs only")
    max_gradient: Positive | None = Field(
        None, description="each element of the gradient of a pooled output is cut to +- this"
    )

    @model_validator(mode="after")
    def _has_only_what_its_kind_reads(self) -> "SparseOptimizerConfig":
        if self.eps is not None and self.kind == "sgd":
            raise ValueError("eps has no effect on kind sgd")
        if self.betas is not None and "adam" not in self.kind:
            raise ValueError(f"betas have no effect on kind {self.kind}")
        return self


class DenseOptimizerConfig(Section):
    kind: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0


class ScheduleConfig(Section):
    """The factor on the learning rates as a function of the step."""

    warmup_steps: int = Field(0, ge=0, description="the factor rises linearly to 1 over so many steps")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="from 1 after the warm-up to final_factor")
    decay_steps: PositiveInt | None = Field(None, description="default: up to the end of max_epochs")
    final_factor: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _decays_if_it_says_how(self) -> "ScheduleConfig":
        if self.decay == "none" and (self.decay_steps is not None or self.final_factor):
            raise ValueError("decay_steps and final_factor have no effect without decay: linear or cosine")
        return self

    @property
    def ends_with_the_run(self) -> bool:
        """Whether the factor depends on max_epochs."""
        return self.decay != "none" and self.decay_steps is None


ShardingType = Literal["table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel"]


class TableShardingConfig(Section):
    """How one table is placed."""

    type: Literal["auto"] | ShardingType = "auto"
    kernel: Literal["fused", "fused_uvm", "fused_uvm_caching"] = Field(
        "fused", description="on GPUs: in their memory, in the host's, or in the host's with a cache on the GPU"
    )
    min_columns: Annotated[int, Field(ge=4, multiple_of=4)] | None = Field(
        None, description="least width of a part of a table that is split by columns; default 32"
    )


class ShardingConfig(Section):
    """How tables are placed on ranks, and the memory that a rank has for them."""

    default: Literal["auto"] | ShardingType = Field("auto", description="auto: what the planner finds cheapest")
    tables: dict[str, ShardingType | TableShardingConfig] = Field(
        default_factory=dict, description="by table name or a pattern such as user_*"
    )
    device_memory_gib: Positive | None = Field(None, description="memory of a rank's GPU; default: what it has")
    host_memory_gib: Positive | None = Field(
        None, description="host memory of a rank; default: its share of the machine"
    )
    reserved_fraction: Fraction = Field(0.15, description="of the memory, kept for all that is not a table")


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
    sparse_optimizers: dict[str, SparseOptimizerConfig] = Field(
        default_factory=dict, description="instead of sparse_optimizer, by table name or pattern"
    )
    sparse_schedule: ScheduleConfig = Field(ScheduleConfig(), description="of the learning rates of all tables")
    dense_schedule: ScheduleConfig = ScheduleConfig()
    max_gradient_norm: Positive | None = Field(None, description="clips the dense parameters' global norm")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the dense part's products; parameters, tables and losses stay float32"
    )
    compile: bool = Field(
        False, description="the dense part by torch.compile: for GPUs, on a CPU it is slower; needs a C++ compiler"
    )
    micro_batch_rows: PositiveInt | None = Field(
        None, description="rows of a rank that go through the dense part at a time, to save memory; default: all"
    )
    pipeline: Literal["auto", "plain", "sparse_dist"] = Field(
        "auto", description="sparse_dist overlaps the exchange of ids with computing; auto: on GPUs"
    )
    sharding: ShardingConfig = ShardingConfig()
    early_stopping: EarlyStoppingConfig | None = EarlyStoppingConfig()
    validate_every_steps: int | None = Field(None, ge=1, description="default: at the end of each epoch")
    checkpoint_every_steps: int | None = Field(None, ge=1, description="default: with each validation")
    keep_checkpoints: int = Field(2, ge=1, description="the newest ones; the best one is kept besides")
    checkpoint_in_background: bool = Field(True, description="needs host memory for a copy of the rank's tables")
    warm_start: str | None = Field(
        None, description="the checkpoint of an earlier run to start from; tables may be larger now"
    )
    record_rows: bool = Field(False, description="writes down the row keys of every step, for audits")
    log_every_steps: int = Field(20, ge=1)
    inspect_every_steps: int | None = Field(50, ge=1, description="looks at gates and gradients; null: never")
    collective_timeout_seconds: int = Field(300, ge=1, description="a rank that answers later is named as lost")
    watchdog_seconds: int = Field(60, ge=1, description="dumps every thread's stack when no step ends for so long")
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
