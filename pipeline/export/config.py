"""The `export` section: in what types a model serves, and how many rows show that it says what it was trained to."""

from typing import Literal

from pydantic import Field

from pipeline.config import Section


class ExportConfig(Section):
    tables: Literal["float32", "bfloat16", "int8"] = Field(
        "float32", description="the embedding tables; int8 has a scale and an offset per row"
    )
    dense: Literal["float32", "bfloat16"] = Field("float32", description="what body and towers compute in")
    parity_rows: int = Field(4096, ge=1, description="encoded rows on which the export is compared with the checkpoint")
