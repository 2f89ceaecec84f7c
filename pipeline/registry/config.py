"""The `registry` section."""

from pydantic import Field

from pipeline.config import Section


class RegistryConfig(Section):
    location: str = Field(min_length=1, description="the folder, or s3://bucket/folder, that the versions are kept in")
    lease_seconds: int = Field(
        600, ge=30, description="a holder that does not renew its lease for so long is taken for dead"
    )
    keep: int = Field(10, ge=1, description="the newest versions that `registry retain` leaves, beside those in use")
