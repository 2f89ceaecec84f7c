"""The whole configuration of a run: composes the sections and checks the rules that cross them."""

import fnmatch
from pathlib import Path

from pydantic import Field, model_validator

from pipeline import storage
from pipeline.config import Section, apply_overrides, build, nearest, read_config
from pipeline.errors import DataError
from pipeline.evaluate.config import EvaluateConfig
from pipeline.export.config import ExportConfig
from pipeline.preprocess.config import PreprocessConfig, SourceConfig
from pipeline.registry.config import RegistryConfig
from pipeline.retrain.config import RetrainConfig
from pipeline.schema import Schema
from pipeline.score.config import ScoreConfig
from pipeline.train.config import ModelConfig, TrainConfig
from pipeline.tune.config import TuneConfig


class ClusterConfig(Section):
    """Where Ray work runs: an existing cluster, or one started on this machine when more than one CPU is asked for."""

    address: str | None = None
    num_cpus: int = Field(1, ge=1, description="1 runs in this process, with no cluster")


class RunConfig(Section):
    workspace: str = Field(description="the folder that receives every output of the run")
    inputs: str = Field(".", description="the folder, or s3://bucket/folder, that relative input paths start from")
    dataset: str | None = Field(
        None, description="where the dataset is kept: a folder, or s3://bucket/folder; default: in the workspace"
    )
    seed: int = Field(0, ge=0, lt=2**63)
    cluster: ClusterConfig = ClusterConfig()
    data_schema: Schema = Field(alias="schema")
    preprocess: PreprocessConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    score: ScoreConfig | None = None
    registry: RegistryConfig | None = None
    retrain: RetrainConfig | None = None
    tune: TuneConfig | None = None

    @model_validator(mode="after")
    def _names_hold(self) -> "RunConfig":
        tables = self.data_schema.table_owners()
        tasks = [task.name for task in self.data_schema.tasks]
        for where, names, choices in (
            ("model.front_end.embedding_dims", self.model.front_end.embedding_dims, tables),
            ("model.front_end.num_embeddings", self.model.front_end.num_embeddings, tables),
            ("model.task_weights", self.model.task_weights, tasks),
            ("model.positive_weights", self.model.positive_weights, tasks),
            ("model.huber_deltas", self.model.huber_deltas, tasks),
            ("tune.weights", (self.tune and self.tune.weights) or {}, tasks),
            ("tune.constraints", self.tune.constraints if self.tune else {}, tasks),
        ):
            for name in names:
                if name not in choices:
                    raise ValueError(
                        f"{where} names {name!r}, which the schema does not have: {nearest(name, choices)}"
                    )
        for where, patterns in (
            ("train.sharding.tables", self.train.sharding.tables),
            ("train.sparse_optimizers", self.train.sparse_optimizers),
        ):
            for pattern in patterns:
                if not fnmatch.filter(tables, pattern):
                    raise ValueError(f"{where} names {pattern!r}, which fits no table: {nearest(pattern, tables)}")
        if self.train.record_rows and not self.data_schema.keys.row:
            raise ValueError("train.record_rows needs schema.keys.row, the column that names a row")
        if self.evaluate.truth and not self.data_schema.keys.row:
            raise ValueError("evaluate.truth needs schema.keys.row, the column that names a row")
        if self.score and not (self.data_schema.keys.item and self.data_schema.keys.request):
            raise ValueError("score needs schema.keys.item and schema.keys.request")
        if self.retrain:
            self._check_retrain(self.retrain)
        return self

    def _check_retrain(self, retrain: RetrainConfig) -> None:
        keys = self.data_schema.keys
        if not self.registry:
            raise ValueError("retrain needs the section registry, which says where the versions of the model are")
        if not keys.time or not (keys.request or keys.user):
            raise ValueError("retrain needs schema.keys.time, and schema.keys.request or schema.keys.user")
        if retrain.score and not self.score:
            raise ValueError("retrain.score needs the section score")

    @property
    def workspace_dir(self) -> Path:
        return Path(self.workspace)

    @property
    def dataset_dir(self) -> Path:
        """The dataset, or the local copy of one that is kept in a store."""
        if self.dataset is None or storage.is_remote(self.dataset):
            return self.workspace_dir / "dataset"
        return Path(self.dataset)

    @property
    def remote_dataset(self) -> str | None:
        """Where the dataset is kept, if that is a store."""
        return storage.join(self.dataset, ".") if self.dataset and storage.is_remote(self.dataset) else None

    @property
    def checkpoints_dir(self) -> Path:
        return self.workspace_dir / "checkpoints"

    @property
    def report_dir(self) -> Path:
        return self.workspace_dir / "report"

    @property
    def export_dir(self) -> Path:
        return self.workspace_dir / "export"

    @property
    def scores_dir(self) -> Path:
        return self.workspace_dir / "ranked"

    def input_path(self, path: str) -> str:
        """An input path as the configuration gives it, resolved against `inputs`."""
        return storage.join(self.inputs, path)

    def source(self, source: SourceConfig) -> SourceConfig:
        """The same source with its path resolved."""
        return source.model_copy(update={"path": self.input_path(source.path)})

    def check_inputs(self) -> None:
        """Raises a DataError when the folder of inputs is not there."""
        if not storage.is_folder(self.inputs):
            storage.check_bucket(self.inputs)
            raise DataError(
                f"the input folder {self.inputs} is not there",
                "give the folder that holds the raw files: --set inputs=FOLDER",
            )


def load_run_config(path: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The checked configuration of a run from a file and its `--set` overrides.

    Raises:
        ConfigError: the first problem, naming file, key, value and rule.
    """
    return build(RunConfig, apply_overrides(read_config(path), overrides), str(path))
