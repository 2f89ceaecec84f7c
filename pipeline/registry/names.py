"""What files and versions may be called: plain relative names, so that no manifest leads out of its folder."""

import re
from collections.abc import Collection

VERSIONS_FOLDER = "versions"
MANIFEST_NAME = "manifest.json"
MAX_NAME_LENGTH = 500

# `.metadata` of a checkpoint is such a part. No letters beyond ASCII: several spellings can be one file.
_PART = re.compile(r"[\w.-]{1,200}", re.ASCII)
_VERSION = re.compile(r"\d{6,18}", re.ASCII)


def is_plain(name: str) -> bool:
    """Whether a name is relative, with `/` between plain parts."""
    parts = name.split("/")
    return len(name) <= MAX_NAME_LENGTH and all(_PART.fullmatch(part) and part.strip(".") for part in parts)


def check_name(name: str) -> str:
    """The name itself if it is plain.

    Raises:
        ValueError: it could lead out of its folder, or mean another file on another system.
    """
    if not is_plain(name):
        shown = ascii(name) if len(name) <= MAX_NAME_LENGTH else f"{name[:40]!a}..."
        raise ValueError(
            f"{shown} is not a plain relative name: letters, digits, `_`, `-` and `.`, with `/` between folders"
        )
    return name


def check_names(names: Collection[str]) -> None:
    """Raises a ValueError when the names of a version's files cannot all be files of one folder."""
    for name in names:
        parts = check_name(name).split("/")
        if parts[0] == MANIFEST_NAME:
            raise ValueError(f"{name!r} is the registry's own")
        above = ("/".join(parts[:count]) for count in range(1, len(parts)))
        if taken := next((one for one in above if one in names), None):
            raise ValueError(f"{name!r} lies below {taken!r}, which is a file")


def version_folder(number: int) -> str:
    """The folder of a version as seen from the registry's."""
    return f"{VERSIONS_FOLDER}/{number:06d}"


def number_of(folder: str) -> int | None:
    """The number of the version with that last part of its folder; None of any other name."""
    if not _VERSION.fullmatch(folder) or not int(folder) or folder != f"{int(folder):06d}":
        return None
    return int(folder)
