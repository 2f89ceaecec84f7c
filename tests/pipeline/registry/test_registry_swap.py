"""Small files that several write: of all who write after the same reading one does, whatever the store answers."""

import threading
from pathlib import Path

import pytest
from s3_store import ACCESS_KEY, SECRET_KEY, Store, break_off, refuse

from pipeline.errors import SetupError, StorageError
from pipeline.registry import swap


def write(location: str, data: bytes, version: str | None) -> bool:
    return swap.swap(location, data, version, Path(location).with_name(".lock"))


@pytest.fixture(params=["disk", "store"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "folder" / "file.json")
    return f"{request.getfixturevalue('bucket')}/folder/file.json"


def test_a_file_is_written_only_as_it_was_read(location: str) -> None:
    assert swap.read(location) is None
    assert not write(location, b"one", "a version")
    assert write(location, b"one", None)
    one = swap.read(location)
    assert one
    assert one.data == b"one"
    assert not write(location, b"two", None)
    assert write(location, b"two", one.version)
    assert not write(location, b"three", one.version)
    two = swap.read(location)
    assert two
    assert two.data == b"two"
    assert two.version != one.version


def test_of_many_who_write_after_the_same_reading_one_does(
    request: pytest.FixtureRequest, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if location.startswith("s3://"):
        one_at_a_time(request.getfixturevalue("store"), monkeypatch)
    version = None
    for turn in range(10):
        barrier = threading.Barrier(8)
        wrote: list[int] = []

        def work(number: int, turn: int = turn, version: str | None = version) -> None:
            barrier.wait()  # noqa: B023
            if write(location, f"{turn} {number}".encode(), version):
                wrote.append(number)  # noqa: B023

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = swap.read(location)
        assert found
        assert [f"{turn} {number}".encode() for number in wrote] == [found.data]
        version = found.version


def one_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store compares and writes at once; moto does so only if it is asked one thing at a time."""
    lock, answer = threading.Lock(), store._moto

    def locked(*args: object) -> object:
        with lock:
            return answer(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_moto", locked)


def test_a_write_whose_answer_was_lost_is_known_as_done(bucket: str, store: Store) -> None:
    """The store has written, its answer does not arrive, and the second request finds another version than its own."""
    location = f"{bucket}/file.json"
    answer = store._moto

    def lose(environment: object, start: object) -> object:
        store._moto = answer
        list(answer(environment, lambda *_: None))  # type: ignore[arg-type]
        return refuse("503 Service Unavailable", "ServiceUnavailable")(environment, start)  # type: ignore[arg-type]

    store._moto = lose  # type: ignore[assignment]
    assert write(location, b"ours", None)
    assert [request for request in store.requests if request.endswith("file.json")][:2] == [f"PUT /{location[5:]}"] * 2


@pytest.mark.parametrize(
    "fault",
    [
        refuse("503 Slow Down", "SlowDown"),
        refuse("500 Error", "InternalError"),
        refuse("409 Conflict", "ConditionalRequestConflict"),
    ],
)
def test_passing_faults_are_survived_twice_and_then_named(bucket: str, store: Store, fault: object) -> None:
    location = f"{bucket}/file.json"
    for action in (lambda: write(location, b"ours", None), lambda: swap.read(location)):
        store.fail(2, fault)  # type: ignore[arg-type]
        assert action()
        store.fail(3, fault)  # type: ignore[arg-type]
        with pytest.raises(StorageError, match=rf"the storage under {location} failed 3 times in a row"):
            action()
        assert store.num_faults == 0


def test_an_answer_that_breaks_off_is_asked_for_again(bucket: str, store: Store) -> None:
    location = f"{bucket}/file.json"
    assert write(location, b"ours", None)
    store.fail(2, break_off, "GET")
    found = swap.read(location)
    assert found
    assert found.data == b"ours"
    store.fail(3, break_off, "GET")
    with pytest.raises(StorageError, match="failed 3 times in a row: network connection during GetObject"):
        swap.read(location)


def test_a_refusal_says_what_to_change_and_a_wrong_endpoint_is_no_empty_registry(bucket: str, store: Store) -> None:
    location = f"{bucket}/file.json"
    for action in (lambda: write(location, b"ours", None), lambda: swap.read(location)):
        store.fail(1, refuse("403 Forbidden", "AccessDenied"))
        with pytest.raises(SetupError, match=r"cannot be used with these credentials: access denied during \w+"):
            action()
        store.fail(1, refuse("404 Not Found", "NotASt0re<"))
        with pytest.raises(StorageError, match="cannot be used: HTTP status 404 during"):
            action()
    with pytest.raises(StorageError, match="there is no bucket 'not-there'"):
        swap.read("s3://not-there/file.json")
    with pytest.raises(StorageError, match="there is no bucket 'not-there'"):
        write("s3://not-there/file.json", b"ours", None)


def test_missing_and_wrong_credentials_are_named_and_not_shown(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    location = f"{bucket}/file.json"
    # The client of this process has the right ones.
    monkeypatch.setattr(swap, "_connect", swap._connect.__wrapped__)
    for key in ("AKIANOBODYHASTHISONE", None):
        if key:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        else:
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(SetupError, match="cannot be used with these credentials") as caught:
            swap.read(location)
        assert not [secret for secret in ("AKIANOBODY", ACCESS_KEY, SECRET_KEY) if secret in str(caught.value)]


def test_a_lock_that_is_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        write(str(tmp_path / "file.json"), b"ours", None)
    assert not (tmp_path / "elsewhere").exists()
