"""Versions are immutable and whole, the champion moves and goes back, and what is in use is never removed."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from small_registry import FILES, SECONDS, Clock, promote, publish, small_lineage, write_files

from pipeline import storage
from pipeline.errors import ArtifactError, ConfigError, LockedError, StorageError, UsageError
from pipeline.registry.registry import Registry
from pipeline.registry.root import utc_now


@pytest.fixture(params=["disk", "store"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a registry can be: a folder, or one in a store."""
    if request.param == "disk":
        return str(tmp_path / "registry")
    return f"{request.getfixturevalue('bucket')}/models"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(location: str, clock: Clock) -> Registry:
    return Registry.open(location, clock)


def content_of(registry: Registry) -> dict[str, bytes]:
    """Every file of a registry but the locks of the operating system."""
    names = [file.name for file in storage.list_files(registry.root.location)]
    at = registry.root.location
    return {name: storage.read_bytes(storage.join(at, name)) for name in names if not name.endswith(".lock")}


# --- versions


def test_a_version_comes_back_as_it_was_published(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    files = write_files(tmp_path / "made", "1")
    number = registry.publish(files, small_lineage())
    version = registry.show(number)
    assert (number, registry.numbers(), registry.versions()) == (1, [1], [version])
    assert (version.created, version.lineage) == (clock.now, small_lineage())
    assert version.num_bytes == sum(path.stat().st_size for path in files.values())
    folder = registry.fetch(number, tmp_path / "fetched")
    assert {name: (folder / name).read_bytes() for name in FILES} == {
        name: path.read_bytes() for name, path in files.items()
    }


def test_the_times_of_a_version_are_utc_whatever_zone_they_were_given_in(registry: Registry, tmp_path: Path) -> None:
    """At this hour clocks in Berlin go forward; a slot without a zone is refused."""
    slot = registry.show(publish(registry, tmp_path)).lineage.model_dump(mode="json")["slot"]
    assert slot == "2025-03-30T00:30:00Z"
    with pytest.raises(ValueError, match="should have timezone info"):
        small_lineage(slot="2025-03-30T02:30:00")


def test_nothing_changes_a_version_that_was_published(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path / "first")
    before = content_of(registry)
    write_files(tmp_path / "first", "another")
    publish(registry, tmp_path / "first", "2", parent=1)
    promote(registry, 1, 2)
    registry.fetch(1, tmp_path / "fetched")
    after = content_of(registry)
    assert {name: after[name] for name in before if name.startswith("versions/")} == {
        name: content for name, content in before.items() if name.startswith("versions/")
    }


def test_a_version_is_there_only_when_its_manifest_is(registry: Registry, tmp_path: Path) -> None:
    seen: list[list[int]] = []
    upload = storage.upload

    def watched(path: Path, location: str) -> None:
        upload(path, location)
        seen.append(registry.numbers())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "upload", watched)
        publish(registry, tmp_path)
    assert seen == [[]] * len(FILES)
    assert registry.numbers() == [1]


def test_a_number_is_not_given_twice_after_the_newest_version_was_removed(location: str, tmp_path: Path) -> None:
    registry = Registry.open(location, lambda: utc_now() + timedelta(hours=25))
    for text in "12":
        publish(registry, tmp_path, text)
    storage.remove(registry.root.at("versions/000002/manifest.json"))
    lease = registry.acquire("the tests", SECONDS)
    assert registry.retain(1, token=lease.token) == []
    assert not [name for name in content_of(registry) if name.startswith("versions/000002/")]
    assert publish(registry, tmp_path, "3") == 3
    storage.remove(registry.root.at("numbers.json"))
    assert publish(registry, tmp_path, "4") == 4


def test_what_cannot_be_published_is_named_and_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    files = write_files(tmp_path / "made", "1")
    (tmp_path / "link").symlink_to(files["report.json"])
    for changed, said in (
        ({"../report.json": files["report.json"]}, r"'\.\./report\.json' is not a plain relative name"),
        ({"manifest.json": files["report.json"]}, "'manifest.json' is the registry's own"),
        ({"report.json/a": files["report.json"]}, "'report.json/a' lies below 'report.json'"),
        ({"a": tmp_path / "link"}, "link, to be published as a, is a symbolic link"),
        ({"a": tmp_path / "nothing"}, "nothing, to be published as a, is no file"),
        ({"a": tmp_path}, ", to be published as a, is no file"),
    ):
        with pytest.raises(UsageError, match=said):
            registry.publish(files | changed, small_lineage())
    with pytest.raises(UsageError, match="without files"):
        registry.publish({}, small_lineage())
    assert content_of(registry) == {}
    with pytest.raises(UsageError, match=r"lineage\.parent is 9, and a parent comes before"):
        registry.publish(files, small_lineage(9))
    with pytest.raises(UsageError, match=r"names 'gone\.json', which is no file"):
        registry.publish(files, small_lineage(reports=["gone.json"]))
    assert list(content_of(registry)) == ["numbers.json"]


def test_a_version_that_is_not_there_is_named_with_those_that_are(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no version 2\. Publish one first"):
        registry.show(2)
    publish(registry, tmp_path)
    with pytest.raises(UsageError, match=r"holds no version 2\. Choose from 1\."):
        registry.show(2)


def test_a_fetched_copy_is_mended_and_not_brought_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.open(bucket)
    publish(registry, tmp_path / "made")
    folder = registry.fetch(1, tmp_path / "fetched")
    (folder / "report.json").write_text("changed")
    brought = []
    download = storage.download

    def watched(location: str, *rest: Any) -> None:
        brought.append(location)
        download(location, *rest)

    monkeypatch.setattr(storage, "download", watched)
    assert registry.fetch(1, tmp_path / "fetched") == folder
    assert brought == [f"{bucket}/versions/000001/report.json"]
    assert (folder / "report.json").read_text() == "report.json of 1"


def test_a_difference_is_a_line_of_lineage_settings_or_files(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path / "made")
    files = write_files(tmp_path / "made", "2")
    (tmp_path / "extra").write_text("more")
    registry.publish(files | {"extra": tmp_path / "extra"}, small_lineage(1, data_manifest="f" * 64))
    assert registry.diff(1, 1) == []
    assert registry.diff(1, 2) == [
        "lineage: parent: None -> 1",
        f"lineage: data_manifest: {'a' * 64} -> {'f' * 64}",
        "checkpoint/.metadata: 25 bytes, 25 bytes, of another content",
        "config.resolved.yaml: train.epochs: 1 -> 2",
        "extra: only in version 2",
        "report.json: 16 bytes, 16 bytes, of another content",
    ]


# --- the champion


def test_there_is_no_champion_before_the_first_promotion(registry: Registry, tmp_path: Path) -> None:
    assert registry.champion() is None
    publish(registry, tmp_path)
    lease = registry.acquire("the tests", SECONDS)
    assert registry.champion() is None
    with pytest.raises(UsageError, match="has no champion before the present one"):
        registry.rollback(token=lease.token, reason="")
    champion = registry.promote(1, token=lease.token, reason="the first")
    assert registry.champion() == champion
    assert (champion.version, champion.token, champion.reason) == (1, lease.token, "the first")
    assert registry.promote(1, token=lease.token, reason="again") == champion


def test_a_rollback_of_a_rollback_goes_one_further_back(registry: Registry, tmp_path: Path, clock: Clock) -> None:
    for text in "123":
        publish(registry, tmp_path, text)
    promote(registry, 1, 2, 3)
    lease = registry.acquire("the tests", SECONDS)
    clock.advance(1)
    assert registry.rollback(token=lease.token, reason="worse").version == 2
    assert registry.rollback(token=lease.token, reason="worse, too").version == 1
    with pytest.raises(UsageError, match="has no champion before the present one"):
        registry.rollback(token=lease.token, reason="")
    registry.promote(3, token=lease.token, reason="it was not the model")
    assert registry.rollback(token=lease.token, reason="it was").version == 1
    history = registry.promotions().history
    assert [entry.version for entry in history] == [1, 2, 3, 2, 1, 3, 1]
    assert history[-1] == registry.champion()
    assert history[3].reason == "worse"


def test_a_version_promoted_again_is_rolled_back_to_what_was_before_it_and_not_round_and_round(
    registry: Registry, tmp_path: Path
) -> None:
    for text in "12":
        publish(registry, tmp_path, text)
    promote(registry, 1, 2, 1)
    lease = registry.acquire("the tests", SECONDS)
    assert [registry.rollback(token=lease.token, reason="").version for _ in range(2)] == [2, 1]


def test_a_reason_that_is_no_line_is_refused(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path)
    lease = registry.acquire("the tests", SECONDS)
    for reason in ("two\nlines", "a bell \x07", "long" * 200):
        with pytest.raises(UsageError, match="is no line of text"):
            registry.promote(1, token=lease.token, reason=reason)
    assert registry.champion() is None


# --- retention


def test_the_champion_the_one_before_and_the_parents_of_what_stays_are_kept(registry: Registry, tmp_path: Path) -> None:
    #    version  1     2  3  4  5  6  7  8
    parents = (None, None, 1, 2, 3, 4, 4, 5)
    for parent in parents:
        publish(registry, tmp_path, str(parent), parent)
    promote(registry, 3, 4, 6)
    lease = registry.acquire("the tests", SECONDS)
    # 8 is the newest, 6 the champion, 4 the one before; their parents are 5, 4 and 2.
    assert registry.retain(1, token=lease.token) == [1, 3, 7]
    assert registry.numbers() == [2, 4, 5, 6, 8]
    assert registry.retain(1, token=lease.token) == []
    assert registry.rollback(token=lease.token, reason="").version == 4
    for number in registry.numbers():
        registry.verify(number)


def test_a_champion_that_was_removed_is_not_rolled_back_to(registry: Registry, tmp_path: Path) -> None:
    for text in "1234":
        publish(registry, tmp_path, text)
    promote(registry, 1, 2, 3)
    lease = registry.acquire("the tests", SECONDS)
    assert registry.retain(1, token=lease.token) == [1]
    registry.rollback(token=lease.token, reason="")
    with pytest.raises(UsageError, match=r"holds no version 1\. Choose from 2, 3, 4\."):
        registry.rollback(token=lease.token, reason="")
    champion = registry.champion()
    assert champion
    assert champion.version == 2


def test_half_published_versions_are_swept_when_they_are_nobodys_work_any_more(location: str, tmp_path: Path) -> None:
    registry = Registry.open(location)
    publish(registry, tmp_path)
    publish(registry, tmp_path, "2")
    storage.remove(registry.root.at("versions/000002/manifest.json"))
    lease = registry.acquire("the tests", 100 * 3600)
    assert registry.retain(1, token=lease.token) == []
    assert [name for name in content_of(registry) if name.startswith("versions/000002/")]
    later = Registry.open(location, lambda: utc_now() + timedelta(hours=25))
    assert later.retain(1, token=lease.token) == []
    assert not [name for name in content_of(registry) if name.startswith("versions/000002/")]
    assert registry.verify(1)


def test_a_removal_needs_the_last_token(registry: Registry, tmp_path: Path) -> None:
    for text in "123":
        publish(registry, tmp_path, text)
    lease = registry.acquire("the tests", SECONDS)
    with pytest.raises(LockedError, match="is not the last one"):
        registry.retain(1, token=lease.token - 1)
    assert registry.numbers() == [1, 2, 3]


# --- locations


@pytest.mark.parametrize("location", ["gs://bucket/models", "http://host/models", "a\nb", "a\0b", "\x1b[2J"])
def test_a_location_that_is_none_is_refused(location: str) -> None:
    with pytest.raises(ConfigError, match=r"the registry's location '.*' is neither a folder nor in a store"):
        Registry.open(location)


def test_a_location_with_credentials_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="is not the name of a bucket") as caught:
        Registry.open("s3://KEY:SECRET@bucket/models")
    assert "SECRET" not in str(caught.value)


def test_a_bucket_and_a_folder_that_are_not_there_are_told_apart(store: object, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no bucket 'not-there'"):
        Registry.open("s3://not-there/models").numbers()
    assert Registry.open(str(tmp_path / "nothing")).numbers() == []


def test_the_files_of_a_registry_are_plain_json(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path)
    promote(registry, 1)
    champion = json.loads(storage.read_bytes(registry.root.at("champion.json")))
    assert champion["champion"]["version"] == 1
    assert champion["champion"]["promoted_at"] == "2025-03-30T00:30:00Z"
    manifest = json.loads(storage.read_bytes(registry.root.at("versions/000001/manifest.json")))
    assert (manifest["number"], sorted(manifest["files"])) == (1, sorted(FILES))


def test_a_missing_file_of_a_version_is_named(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path / "made")
    storage.remove(registry.root.at("versions/000001/report.json"))
    for read in (registry.verify, lambda number: registry.fetch(number, tmp_path / "fetched")):
        with pytest.raises(ArtifactError, match=r"versions/000001/report\.json is not there\. Restore the file"):
            read(1)
