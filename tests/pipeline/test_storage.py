"""Locations, local and in a store with the interface of S3: found, described, copied; faults survived or named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_store import ACCESS_KEY, SECRET_KEY, Fault, Store, break_off, refuse

from pipeline import s3, storage
from pipeline.errors import ArtifactError, ConfigError, SetupError, StorageError
from pipeline.files import MAX_FAILURES, sha256_of

FILES = ("log/a.csv", "log/b.csv", "log/_done", "log/.part", "log/2025/01/c.csv", "log/2025/02/d.json", "users.csv")
PATTERNS = (
    "users.csv", "users*", "log", "log/2025", "log/*.csv", "log/?.csv", "log/[ab].csv", "*/*.csv", "log/**/*.csv",
    "**/*.csv", "log/*/02/*", "log/20*/0[12]/[cd].*", "nothing", "nothing/*.csv", "log/*.parquet",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path, bucket: str) -> Path:
    """A folder whose files are in the bucket, too."""
    for name in FILES:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
        storage.upload(path, storage.join(bucket, name))
    return tmp_path / "tree"


# --- locations


@pytest.mark.parametrize(
    ("folder", "name", "joined"),
    [
        ("data", "log", "data/log"),
        ("data", "/log", "/log"),
        ("data", "s3://bucket/log", "s3://bucket/log"),
        ("s3://bucket", "log", "s3://bucket/log"),
        ("s3://bucket/data/", "./log/*.csv", "s3://bucket/data/log/*.csv"),
        ("s3://bucket/data", "../log", "s3://bucket/log"),
        ("s3://bucket/data", ".", "s3://bucket/data"),
        ("s3://bucket/data", "/log", "/log"),
        ("s3://bucket/data", "s3://other/log", "s3://other/log"),
    ],
)
def test_a_name_is_seen_from_its_folder(folder: str, name: str, joined: str) -> None:
    assert storage.join(folder, name) == joined


@pytest.mark.parametrize("location", [f"s3://{ACCESS_KEY}:{SECRET_KEY}@bucket/log", "s3://", "s3:///log", "s3://B/log"])
def test_what_is_no_bucket_is_refused_and_not_shown(location: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a bucket") as caught:
        storage.find_files(location)
    assert SECRET_KEY not in str(caught.value)
    assert ACCESS_KEY not in str(caught.value)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_store_is_searched_as_a_disk_is(tree: Path, bucket: str, pattern: str) -> None:
    local = [Path(file).relative_to(tree).as_posix() for file in storage.find_files(str(tree / pattern))]
    found = storage.find_files(storage.join(bucket, pattern))
    assert [file.removeprefix(f"{bucket}/") for file in found] == local
    assert storage.exists(storage.join(bucket, pattern)) == (tree / pattern).is_file()
    assert storage.is_folder(storage.join(bucket, pattern)) == (tree / pattern).is_dir()


def test_all_files_below_a_folder_are_listed_with_the_time_they_were_written(tree: Path, bucket: str) -> None:
    (tree / "link").symlink_to(tree / "users.csv")
    (tree / "log" / "linked").symlink_to(tree / "log" / "2025")
    for location in (str(tree), bucket):
        listed = storage.list_files(location)
        assert [file.name for file in listed] == sorted(FILES)
        written = (tree / "users.csv").stat().st_mtime
        assert all(abs(file.modified_seconds - written) < 3600 for file in listed)
        assert [file.name for file in storage.list_files(storage.join(location, "log/2025"))] == [
            "01/c.csv",
            "02/d.json",
        ]
        assert storage.list_files(storage.join(location, "nothing")) == []


# --- copies


@pytest.mark.parametrize("num_bytes", [0, 1, 11 << 20])
def test_a_file_comes_back_as_it_was(tmp_path: Path, bucket: str, num_bytes: int) -> None:
    # Of an ending like this one pyarrow's streams make more than a name.
    path, location = tmp_path / "file.gz", f"{bucket}/folder/file.gz"
    path.write_bytes(os.urandom(num_bytes))
    storage.upload(path, location)
    storage.download(location, tmp_path / "copy", sha256_of(path))
    assert (tmp_path / "copy").read_bytes() == path.read_bytes() == storage.read_bytes(location)
    assert storage.describe(location).num_bytes == num_bytes
    assert storage.sha256_of(location) == sha256_of(path)
    storage.remove(location)
    storage.remove(location)
    assert not storage.exists(location)


def test_a_file_is_copied_to_a_disk_whole_and_removed_from_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    copy = str(tmp_path / "folder" / "copy")
    storage.upload(tmp_path / "file", copy)
    assert storage.read_bytes(copy) == b"content"
    assert storage.sha256_of(copy) == sha256_of(tmp_path / "file")
    storage.remove(copy)
    storage.remove(copy)
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_file_that_is_written_again_has_another_version(tmp_path: Path, bucket: str, is_remote: bool) -> None:
    path = tmp_path / "file"
    versions: list[storage.FileVersion] = []
    for content in ("one", "two"):
        path.write_text(content)
        os.utime(path, ns=(0, len(versions)))
        storage.upload(path, f"{bucket}/file")
        versions.append(storage.describe(f"{bucket}/file" if is_remote else str(path)))
    assert versions[0].num_bytes == versions[1].num_bytes
    assert versions[0].version != versions[1].version


def test_a_download_with_another_content_leaves_the_earlier_file(tmp_path: Path, tree: Path, bucket: str) -> None:
    (tmp_path / "copy").write_text("earlier")
    with pytest.raises(ArtifactError, match=rf"{bucket}/users\.csv is damaged: sha256 .*, expected 000000000000\. "):
        storage.download(f"{bucket}/users.csv", tmp_path / "copy", "0" * 64)
    assert (tmp_path / "copy").read_text() == "earlier"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy", "tree"]


# --- faults


def actions(tree: Path, bucket: str, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Every function that talks to a store, by what it asks first."""
    file = f"{bucket}/users.csv"
    return {
        "exists": lambda: storage.exists(file),
        "find": lambda: storage.find_files(f"{bucket}/log/*.csv"),
        "describe": lambda: storage.describe(file),
        "read": lambda: storage.read_bytes(file),
        "download": lambda: storage.download(file, tmp_path / "copy"),
        "upload": lambda: storage.upload(tree / "users.csv", file),
        "remove": lambda: storage.remove(f"{bucket}/log/a.csv"),
        "list": lambda: storage.list_files(f"{bucket}/log"),
        "sha256": lambda: storage.sha256_of(file),
    }


ACTIONS = ("exists", "find", "describe", "read", "download", "upload", "remove", "list", "sha256")
PASSING = [
    refuse("503 Slow Down", "SlowDown"), refuse("500 Error", "InternalError"), refuse("503", "ServiceUnavailable"),
    refuse("429 Too Many", "TooManyRequests"), refuse("504 Gateway Timeout", "Other"),
]  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_two_passing_faults_in_a_row_are_survived_and_a_third_is_named(
    tree: Path, bucket: str, tmp_path: Path, store: Store, action: str
) -> None:
    act = actions(tree, bucket, tmp_path)[action]
    for fault in PASSING:
        store.fail(MAX_FAILURES - 1, fault)
        act()
    store.forget()
    store.fail(MAX_FAILURES, PASSING[0])
    with pytest.raises(StorageError, match=rf"the storage under {bucket}/.* failed 3 times in a row: ") as caught:
        act()
    assert len(store.requests) == MAX_FAILURES
    assert "Check the network and AWS_ENDPOINT_URL, then run the same command again" in str(caught.value)


def test_an_answer_that_breaks_off_is_asked_for_again(tree: Path, bucket: str, store: Store) -> None:
    store.fail(2, break_off, "GET")
    assert storage.read_bytes(f"{bucket}/users.csv") == b"content of users.csv"
    store.fail(3, break_off, "GET")
    with pytest.raises(StorageError, match=r"users\.csv failed 3 times in a row: network connection during GetObject"):
        storage.read_bytes(f"{bucket}/users.csv")


def test_a_store_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(
        StorageError, match=r"failed 3 times in a row: network connection during HeadObject \(Could not connect"
    ):
        storage.find_files(f"{bucket}/log")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "fault", [refuse("403 Forbidden", "AccessDenied"), refuse("403 Forbidden", "SignatureDoesNotMatch")]
)
def test_a_refusal_is_no_passing_fault_and_says_what_to_change(
    tree: Path, bucket: str, tmp_path: Path, store: Store, action: str, fault: Fault
) -> None:
    act = actions(tree, bucket, tmp_path)[action]
    store.forget()
    store.fail(1, fault)
    with pytest.raises(SetupError, match=rf"^{bucket}/.* cannot be used with these credentials: ") as caught:
        act()
    assert len(store.requests) == 1
    assert "Correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in str(caught.value)


@pytest.mark.parametrize("action", ACTIONS)
def test_wrong_credentials_are_named_and_not_shown(
    tree: Path, bucket: str, tmp_path: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODYHASTHISONE")
    monkeypatch.setattr(s3, "_connect", s3._connect.__wrapped__)
    with pytest.raises(SetupError) as caught:
        actions(tree, bucket, tmp_path)[action]()
    assert not [key for key in ("AKIANOBODYHASTHISONE", ACCESS_KEY, SECRET_KEY) if key in str(caught.value)]


@pytest.mark.parametrize("status", ["301 Moved Permanently", "400 Bad Request"])
def test_another_region_is_no_passing_fault(bucket: str, store: Store, status: str) -> None:
    store.fail(1, refuse(status, "AuthorizationHeaderMalformed"))
    with pytest.raises(StorageError, match=r"cannot be used: HTTP status [34]0[10] during .*AWS_REGION"):
        storage.exists(f"{bucket}/file")


def test_a_bucket_and_a_file_that_are_not_there_are_told_apart(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "file").write_text("content")
    storage.check_bucket(f"{bucket}/file")
    with pytest.raises(FileNotFoundError):
        storage.describe(f"{bucket}/file")
    with pytest.raises(FileNotFoundError):
        storage.download(f"{bucket}/file", tmp_path / "copy")
    with pytest.raises(StorageError, match="there is no bucket 'not-there'"):
        storage.check_bucket("s3://not-there/file")
    with pytest.raises(StorageError, match="there is no bucket 'not-there'"):
        storage.upload(tmp_path / "file", "s3://not-there/file")
