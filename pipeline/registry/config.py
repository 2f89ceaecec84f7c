"""The `registry` section, and in it `mlflow`: where the registry is shown to those who work with MLflow."""

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.config import Section
from pipeline.errors import ConfigError


class MlflowConfig(Section):
    uri: str = Field(
        min_length=1,
        description="the server, http://host:port or https://...; who may log in is said by the environment: "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    )
    model: str = Field(
        pattern=r"^\w[\w .-]*$", max_length=200, description="the registered model that shows the versions"
    )
    experiment: str = Field("gatehouse", pattern=r"^\w[\w .:/-]*$", max_length=200, description="holds a run of each")

    @field_validator("uri")
    @classmethod
    def _has_no_secret(cls, uri: str) -> str:
        # Not a ValueError: pydantic's message would show the value.
        try:
            parts = urlsplit(uri)
            is_secret = "@" in uri or bool(parts.query or parts.fragment)
            is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            is_secret, is_server = "@" in uri, False
        if is_secret:
            raise ConfigError(
                "registry.mlflow.uri holds more than http://host:port/path, as a user, a password or a token would be",
                "leave that out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, in the environment",
            )
        if not is_server or not uri.isprintable():
            raise ConfigError("registry.mlflow.uri is not the address of a server", "write it as http://host:port")
        return uri.rstrip("/")


class RegistryConfig(Section):
    location: str = Field(min_length=1, description="the folder, or s3://bucket/folder, that the versions are kept in")
    lease_seconds: int = Field(
        600, ge=30, description="a holder that does not renew its lease for so long is taken for dead"
    )
    keep: int = Field(10, ge=1, description="the newest versions that `registry retain` leaves, beside those in use")
    mlflow: MlflowConfig | None = Field(
        None, description="show the versions in MLflow, too; needs infra/locks/mlflow.lock"
    )
