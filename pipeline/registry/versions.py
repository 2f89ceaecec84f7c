"""Versions on disk or in a store: published once, whole or not there; verified, fetched and removed.

versions/000001/   the files, by the names they were published under, then manifest.json
"""

import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from pipeline import storage
from pipeline.errors import ArtifactError, UsageError
from pipeline.files import sha256_of, sync_folder
from pipeline.registry import swap
from pipeline.registry.names import MANIFEST_NAME, VERSIONS_FOLDER, check_names, is_plain, number_of, version_folder
from pipeline.registry.records import FileEntry, Lineage, Numbers, Version, parse_record
from pipeline.registry.root import VERSION_REMEDY, Root, explaining

NUMBERS_NAME = "numbers.json"
NUMBERS_REMEDY = "restore it, or remove it: it is made anew from the versions that are there"
# A version without a manifest that nobody has written to for so long is nobody's work any more.
ABANDONED_AFTER = timedelta(hours=24)


def list_numbers(root: Root) -> list[int]:
    """The numbers of all versions that are whole, the oldest first."""
    return sorted(number for number, names in _listed(root).items() if MANIFEST_NAME in names)


def _listed(root: Root) -> dict[int, dict[str, float]]:
    """By version, whole or not, its files, and when each was written, in seconds since 1970."""
    found: dict[int, dict[str, float]] = {}
    location = root.at(VERSIONS_FOLDER)
    with explaining(location):
        listed = storage.list_files(location)
    if not listed:
        storage.check_bucket(root.location)
    for file in listed:
        folder, _, name = file.name.partition("/")
        number = number_of(folder)
        if number is not None and is_plain(name):
            found.setdefault(number, {})[name] = file.modified_seconds
    return found


def read_version(root: Root, number: int) -> Version:
    """The manifest of a version.

    Raises:
        UsageError: there is no such version.
        ArtifactError: the manifest is damaged, or it names what lies outside its folder.
    """
    location = root.at(f"{version_folder(number)}/{MANIFEST_NAME}")
    with explaining(location):
        content = swap.read(location)
    if content is None:
        numbers = ", ".join(map(str, list_numbers(root)[-10:]))
        raise UsageError(
            f"{root.location} holds no version {number}", f"choose from {numbers}" if numbers else "publish one first"
        )
    version = parse_record(Version, content.data, location, VERSION_REMEDY)
    if version.number != number:
        raise ArtifactError(f"{location} is of version {version.number}", VERSION_REMEDY)
    return version


# --- publishing


def publish(root: Root, files: Mapping[str, Path], lineage: Lineage) -> int:
    """Copies files into a new version. Until all of it is there, it is not there. Returns its number.

    Raises:
        UsageError: a name is no plain relative one, or a path is no file.
    """
    _check_files(files)
    number = _draw_number(root)
    folder = version_folder(number)
    draft = _draft(number, root, files, lineage)
    entries = {}
    for name, path in sorted(files.items()):
        location = root.at(f"{folder}/{name}")
        with explaining(location):
            entries[name] = FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
            storage.upload(path, location)
    version = draft.model_copy(update={"files": entries})
    if not root.is_remote:
        _sync_folders(Path(root.location), folder, files)
    if not root.swap(f"{folder}/{MANIFEST_NAME}", version, None):
        raise ArtifactError(f"{root.location} has a version {number} already", "publish again")
    return number


def _draft(number: int, root: Root, files: Mapping[str, Path], lineage: Lineage) -> Version:
    """The manifest without what the files are, so that a lineage that cannot be is refused before they are copied."""
    unknown = dict.fromkeys(files, FileEntry(bytes=0, sha256="0" * 64))
    try:
        return Version(number=number, created=root.clock(), lineage=lineage, files=unknown)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"a version cannot be published: {problem}", "correct its lineage") from error


def _check_files(files: Mapping[str, Path]) -> None:
    try:
        check_names(files.keys())
    except ValueError as error:
        raise UsageError(f"a version cannot be published: {error}", "give the file another name") from error
    if not files:
        raise UsageError("a version cannot be published without files", "give at least one")
    for name, path in files.items():
        if path.is_symlink() or not path.is_file():
            kind = "a symbolic link" if path.is_symlink() else "no file"
            raise UsageError(f"{path}, to be published as {name}, is {kind}", "give a file")


def _draw_number(root: Root) -> int:
    """A number that no other version has or had."""
    while True:
        found = root.read(Numbers, NUMBERS_NAME, NUMBERS_REMEDY)
        last = max(found[0].last if found else 0, *_listed(root), 0)
        if root.swap(NUMBERS_NAME, Numbers(last=last + 1), found[1] if found else None):
            return last + 1


def _sync_folders(root: Path, folder: str, names: Mapping[str, Path]) -> None:
    """Makes the folders of a version survive a loss of power, before its manifest can."""
    version = root / folder
    for path in {version.joinpath(name).parent for name in names} | {version, version.parent, root}:
        sync_folder(path)


# --- reading


def verify(root: Root, number: int) -> Version:
    """Compares every file of a version with its size and sha256; returns the manifest.

    Raises:
        ArtifactError: names the first file that is missing, damaged or no file.
    """
    version = read_version(root, number)
    locations = {name: root.at(f"{version_folder(number)}/{name}") for name in version.files}
    for name, location in locations.items():
        entry = version.files[name]
        with explaining(location):
            num_bytes = storage.describe(location).num_bytes
            found = storage.sha256_of(location) if num_bytes == entry.bytes else ""
        if num_bytes != entry.bytes:
            raise ArtifactError(f"{location} has {num_bytes} bytes, expected {entry.bytes}", VERSION_REMEDY)
        if found != entry.sha256:
            raise ArtifactError(
                f"{location} is damaged: sha256 {found[:12]}, expected {entry.sha256[:12]}", VERSION_REMEDY
            )
    return version


def fetch(root: Root, number: int, folder: Path) -> Path:
    """A local folder with the verified files of a version: its own, or of one in a store a copy below `folder`.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    if not root.is_remote:
        verify(root, number)
        return Path(root.at(version_folder(number)))
    version = read_version(root, number)
    copy = folder / f"{number:06d}"
    for name, entry in version.files.items():
        path, location = copy / name, root.at(f"{version_folder(number)}/{name}")
        if path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256:
            continue
        try:
            with explaining(location):
                storage.download(location, path, entry.sha256, entry.bytes)
        except ArtifactError as error:
            raise ArtifactError(error.what, VERSION_REMEDY) from error
    return copy


# --- removing


def remove(root: Root, number: int) -> None:
    """Removes a version, its manifest first: from then on it is not there."""
    folder = version_folder(number)
    location = root.at(f"{folder}/{MANIFEST_NAME}")
    with explaining(location):
        storage.remove(location)
        if not root.is_remote:
            shutil.rmtree(root.at(folder))
            return
        for file in storage.list_files(root.at(folder)):
            if is_plain(file.name):
                storage.remove(root.at(f"{folder}/{file.name}"))


def sweep(root: Root) -> None:
    """Removes what publications that ended early have left, when it is old enough to be nobody's work."""
    oldest = (root.clock() - ABANDONED_AFTER).timestamp()
    for number, names in _listed(root).items():
        if MANIFEST_NAME not in names and max(names.values()) < oldest:
            remove(root, number)
