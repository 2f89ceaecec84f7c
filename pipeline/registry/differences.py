"""What is different between two versions: lineage, settings, files."""

from typing import Any

from pipeline import storage
from pipeline.config import parse_yaml
from pipeline.errors import ArtifactError, ConfigError
from pipeline.registry.names import version_folder
from pipeline.registry.records import Version
from pipeline.registry.root import VERSION_REMEDY, Root, explaining

SETTINGS_SUFFIX = ".yaml"


def describe_differences(root: Root, before: Version, after: Version) -> list[str]:
    """A line for each difference: of the lineage, of the keys of YAML files, of other files."""
    lines = _changes("lineage", "", before.lineage.model_dump(mode="json"), after.lineage.model_dump(mode="json"))
    for name in sorted(before.files.keys() | after.files.keys()):
        old, new = before.files.get(name), after.files.get(name)
        if old == new:
            continue
        if old and new and name.endswith(SETTINGS_SUFFIX):
            lines += _changes(name, "", _settings(root, before, name), _settings(root, after, name))
        elif old and new:
            lines.append(f"{name}: {old.bytes:,} bytes, {new.bytes:,} bytes, of another content")
        else:
            lines.append(f"{name}: only in version {(before if old else after).number}")
    return lines


def _settings(root: Root, version: Version, name: str) -> Any:
    location = root.at(f"{version_folder(version.number)}/{name}")
    try:
        with explaining(location):
            return parse_yaml(storage.read_bytes(location).decode(), location)
    except (ConfigError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{location} cannot be read as settings", VERSION_REMEDY) from error


def _changes(file: str, path: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [line for key in keys for line in _changes(file, f"{path}.{key}", old.get(key), new.get(key))]
    return [] if old == new else [f"{file}: {path.removeprefix('.')}: {old} -> {new}"]
