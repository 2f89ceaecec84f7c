"""No name leads out of a registry: refused when it is published, and in a forged manifest before anything is opened."""

import hashlib
import json
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_registry import publish, small_lineage

from pipeline.errors import ArtifactError, UsageError
from pipeline.registry.names import is_plain, number_of
from pipeline.registry.registry import Registry

NUM_EXAMPLES = int(os.environ.get("REGISTRY_EXAMPLES", "100"))
TRICKS = (
    "../secret", "/etc/passwd", "a/../../secret", "a/..", "..", ".", "", "a//b", "/", "a/", "./a", "a\0b", "a\\b",
    "..\\secret", "C:\\secret", "a\nb", "a/\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}/b", "caf\u00e9", "cafe\u0301",
    "\N{RIGHT-TO-LEFT OVERRIDE}a", "a:b", "~/a", "$HOME/a", "a*", "s3://bucket/a", "...", "a/.../b", "\ud800",
    "a" * 201, "a/" * 300 + "a", "\uff0e\uff0e\uff0fsecret", "%2e%2e/secret", "a b", "-\t",
)  # fmt: skip

opened: list[str] = []
is_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if is_watching and event == "open":
        opened.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else str(arguments[0]))


sys.addaudithook(_watch)

pieces = st.one_of(
    st.sampled_from(["..", ".", "", "/", "\\", "\0", "a", "secret", "~", "C:", "\u2024\u2024"]), st.text(max_size=8)
)
names = st.one_of(
    st.sampled_from(TRICKS), st.text(max_size=30), st.builds("/".join, st.lists(pieces, min_size=1, max_size=6))
)
many = settings(max_examples=NUM_EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])


def forge(folder: Path, **fields: Any) -> None:
    """Changes a manifest as somebody would who knows how its digest is made."""
    path = folder / "versions" / "000001" / "manifest.json"
    content = json.loads(path.read_bytes()) | fields
    del content["digest"]
    content["digest"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content))


@many
@given(names)
def test_a_plain_name_stays_in_its_folder_and_is_spelt_in_one_way(name: str) -> None:
    if is_plain(name):
        assert name.isascii()
        assert os.path.normpath(f"/root/versions/000001/{name}") == f"/root/versions/000001/{name}"
        assert str(PurePosixPath(name)) == name
        assert not {"..", ".", ""} & set(name.split("/"))
        assert name.isprintable()
        assert not set(name) & set("\\:*?~$%\"'<>| ")


@pytest.mark.parametrize("name", TRICKS, ids=ascii)
def test_no_trick_is_a_plain_name(name: str) -> None:
    assert not is_plain(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a version, and a file beside it that nobody may read through it."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("secret")
    publish(Registry.open(str(outside / "registry")), outside / "made")
    return outside / "registry"


@many
@given(names.filter(lambda name: not is_plain(name)))
def test_a_bad_name_is_refused_in_a_forged_manifest_before_any_other_file_is_opened(folder: Path, name: str) -> None:
    global is_watching
    registry = Registry.open(str(folder))
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    forge(folder, files={name: entry, "report.json": entry})
    for read in (
        registry.verify, registry.show,
        lambda number: registry.fetch(number, folder), lambda number: registry.diff(1, 1),
    ):  # fmt: skip
        opened.clear()
        is_watching = True
        try:
            with pytest.raises(ArtifactError) as caught:
                read(1)
        finally:
            is_watching = False
        assert opened == [str(folder / "versions" / "000001" / "manifest.json")]
        assert str(caught.value).isprintable()


@many
@given(names.filter(lambda name: not is_plain(name)))
@example("../000001/report.json")
def test_a_bad_name_is_not_published_and_nothing_is_opened(folder: Path, name: str) -> None:
    global is_watching
    before = sorted(folder.rglob("*"))
    opened.clear()
    is_watching = True
    try:
        with pytest.raises(UsageError) as caught:
            Registry.open(str(folder)).publish({name: folder.parent / "secret"}, small_lineage(reports=[]))
    finally:
        is_watching = False
    assert opened == []
    assert str(caught.value).isprintable()
    assert sorted(folder.rglob("*")) == before


@many
@given(st.one_of(names, st.integers().map(str), st.integers(1, 10**7).map("{:06d}".format)))
@example("000000")
@example("0000001")
@example("\u0660\u0660\u0660\u0660\u0660\u0661")
def test_the_folder_of_a_version_is_spelt_in_one_way(name: str) -> None:
    number = number_of(name)
    if number is not None:
        assert number > 0
        assert f"{number:06d}" == name


# --- symbolic links


@pytest.fixture
def linked(tmp_path: Path) -> Registry:
    """A registry with a version, beside a file that its links will lead to."""
    registry = Registry.open(str(tmp_path / "registry"))
    publish(registry, tmp_path / "made")
    return registry


@pytest.mark.parametrize(
    "name", ["versions/000001/report.json", "versions/000001/checkpoint", "versions/000001", "versions"]
)
def test_a_symbolic_link_in_a_version_is_refused_though_its_content_is_right(
    linked: Registry, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "registry" / name
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    for read in (linked.verify, lambda number: linked.fetch(number, tmp_path)):
        with pytest.raises(ArtifactError, match=rf"{path} is a symbolic link\. A registry has only files and folders"):
            read(1)


@pytest.mark.parametrize("name", ["champion.json", "lease.json", "numbers.json"])
def test_a_symbolic_link_in_the_place_of_a_record_is_refused(linked: Registry, tmp_path: Path, name: str) -> None:
    path = tmp_path / "registry" / name
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "made" / "report.json")
    with pytest.raises(ArtifactError, match=rf"{path} is a symbolic link"):
        publish(linked, tmp_path / "other") if name == "numbers.json" else linked.acquire("a run", 60)
    assert (tmp_path / "made" / "report.json").read_text() == "report.json of 1"


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(linked: Registry, tmp_path: Path) -> None:
    path = tmp_path / "registry" / "versions" / "000001" / "report.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match=rf"{path} is no file\."):
        linked.verify(1)


def test_a_version_that_is_a_link_is_neither_listed_nor_removed(linked: Registry, tmp_path: Path) -> None:
    publish(linked, tmp_path / "made", "2")
    (tmp_path / "registry" / "versions" / "000007").symlink_to(tmp_path / "registry" / "versions" / "000001")
    lease = linked.acquire("a run", 60)
    assert linked.numbers() == [1, 2]
    assert linked.retain(1, token=lease.token) == [1]
    assert (tmp_path / "registry" / "versions" / "000007").is_symlink()


def test_removing_a_version_does_not_follow_the_links_in_it(linked: Registry, tmp_path: Path) -> None:
    publish(linked, tmp_path / "made", "2")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tmp_path / "registry" / "versions" / "000001" / "more").symlink_to(outside)
    lease = linked.acquire("a run", 60)
    assert linked.retain(1, token=lease.token) == [1]
    assert (outside / "kept").read_text() == "kept"


def test_keys_of_a_store_that_no_publication_writes_are_left_alone(bucket: str, tmp_path: Path, store: Any) -> None:
    """As keys `..` is a name like any other; as the path that they are taken for it would be another version's."""
    from pipeline.registry.swap import _connect

    registry = Registry.open(bucket)
    for text in "12":
        publish(registry, tmp_path, text)
    client = _connect(store.endpoint, "us-east-1")
    for key in ("versions/000001/../000002/manifest.json", "versions/../lease.json", "versions/000001/\u00e9"):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"forged")
    lease = registry.acquire("a run", 60)
    assert registry.retain(1, token=lease.token) == [1]
    assert registry.numbers() == [2]
    assert registry.verify(2)
    registry.renew(lease)
