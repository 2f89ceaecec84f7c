"""Damaged files of a registry: nothing replaces them unasked, nothing uses them. And no file of one holds a secret."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbed_registries import champion_of, place_for_registry
from s3_store import ACCESS_KEY, SECRET_KEY
from small_registry import SECONDS, promote, publish
from tampered import new_draw

from pipeline import storage
from pipeline.errors import ArtifactError
from pipeline.registry.registry import Registry


@pytest.fixture(params=["disk", "store"])
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return place_for_registry(request, tmp_path, monkeypatch)


@pytest.fixture
def promoted(location: str, tmp_path: Path) -> Registry:
    """A registry whose second version is the champion, after the first."""
    registry = Registry.open(location)
    for text in "12":
        publish(registry, tmp_path / "made", text)
    promote(registry, 1, 2)
    return registry


def overwrite(registry: Registry, name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(content)
    storage.upload(tmp_path / "damaged", registry.root.at(name))


def damages(content: bytes, draw: random.Random) -> list[bytes]:
    """A file cut, emptied, filled with something else, and with flipped bits."""
    flipped = []
    for place in draw.sample(range(len(content)), 20):
        one = bytearray(content)
        one[place] ^= 1 << draw.randrange(8)
        flipped.append(bytes(one))
    others = [b"[" * 100_000, b"null", b"[]", b"{}", b'{"champion": null, "token": 0}', b"\xff\xfe", b"\0" * 100]
    return [b"", content[:-10], content[: len(content) // 2], *others, *flipped]


def test_a_champion_that_cannot_be_read_stops_everything_and_is_not_replaced(
    promoted: Registry, tmp_path: Path
) -> None:
    content = storage.read_bytes(promoted.root.at("champion.json"))
    token = promoted.promotions().token
    expected = json.loads(content)
    for damaged in damages(content, new_draw()):
        overwrite(promoted, "champion.json", damaged, tmp_path)
        actions: list[Callable[[], object]] = [
            promoted.champion,
            lambda: promoted.acquire("a run", SECONDS),
            lambda: promoted.promote(1, token=token, reason=""),
            lambda: promoted.rollback(token=token, reason=""),
            lambda: promoted.retain(1, token=token),
        ]
        try:
            is_same = json.loads(damaged) == expected
        except (ValueError, RecursionError):
            is_same = False
        if is_same:
            continue  # A flipped bit in the white space is no damage.
        for action in actions:
            with pytest.raises(ArtifactError, match=r"champion\.json") as caught:
                action()
            assert len(str(caught.value).splitlines()) == 1
            assert "nothing replaces it unasked" in str(caught.value)
        assert storage.read_bytes(promoted.root.at("champion.json")) == damaged
        assert promoted.numbers() == [1, 2]


def test_a_champion_that_is_gone_is_no_registry_without_one(promoted: Registry) -> None:
    token = promoted.promotions().token
    storage.remove(promoted.root.at("champion.json"))
    for action in (
        promoted.champion,
        lambda: promoted.acquire("a run", SECONDS),
        lambda: promoted.promote(1, token=token, reason=""),
    ):
        with pytest.raises(ArtifactError, match=r"champion\.json is gone, and lease\.json is there\. Restore it"):
            action()
    assert not storage.exists(promoted.root.at("champion.json"))


@pytest.mark.parametrize("name", ["report.json", "checkpoint/.metadata", "manifest.json"])
def test_a_damaged_version_is_neither_promoted_nor_rolled_back_to_nor_fetched(
    promoted: Registry, tmp_path: Path, name: str
) -> None:
    content = storage.read_bytes(promoted.root.at(f"versions/000001/{name}"))
    lease = promoted.acquire("a run", SECONDS)
    for damaged in (b"", content[:-3], content + b" more", content[:8] + bytes([content[8] ^ 4]) + content[9:]):
        overwrite(promoted, f"versions/000001/{name}", damaged, tmp_path)
        for action in (
            lambda: promoted.verify(1),
            lambda: promoted.fetch(1, tmp_path / "fetched"),
            lambda: promoted.promote(1, token=lease.token, reason=""),
            lambda: promoted.rollback(token=lease.token, reason=""),
        ):
            with pytest.raises(ArtifactError, match=rf"versions/000001/{name}") as caught:
                action()
            assert len(str(caught.value).splitlines()) == 1
        assert champion_of(promoted) == 2
    overwrite(promoted, f"versions/000001/{name}", content, tmp_path)
    assert promoted.rollback(token=lease.token, reason="").version == 1


def test_numbers_that_cannot_be_read_stop_a_publication(promoted: Registry, tmp_path: Path) -> None:
    for damaged in (
        b"",
        b'{"last": 0}',
        storage.read_bytes(promoted.root.at("numbers.json")).replace(b'": 2', b'": 0'),
    ):
        overwrite(promoted, "numbers.json", damaged, tmp_path)
        with pytest.raises(ArtifactError, match=r"numbers\.json.* Restore it, or remove it: it is made anew"):
            publish(promoted, tmp_path / "made")
    storage.remove(promoted.root.at("numbers.json"))
    assert publish(promoted, tmp_path / "made") == 3


# --- secrets


def test_no_file_of_a_registry_holds_a_secret(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-5e1f0c"
    for name in ("AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "DATABASE_PASSWORD"):
        monkeypatch.setenv(name, canary)
    for location in (bucket, str(tmp_path / "registry")):
        registry = Registry.open(location)
        for text in "123":
            publish(registry, tmp_path / "made", text)
        promote(registry, 1, 2)
        with registry.held("a run", SECONDS) as lease:
            registry.rollback(token=lease.token, reason="worse")
            registry.retain(1, token=lease.token)
            held = [storage.read_bytes(storage.join(location, file.name)) for file in storage.list_files(location)]
        assert held
        for content in held:
            assert not [secret for secret in (ACCESS_KEY, SECRET_KEY, canary) if secret.encode() in content]
