"""The stable hash against golden values and a byte-by-byte implementation."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preprocess.columns.hashing import hash64

MASK = (1 << 64) - 1


def reference(text: str, seed: int = 0) -> int:
    value = 0xCBF29CE484222325 ^ (seed & MASK)
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    return value ^ (value >> 33)


def test_hashes_never_change() -> None:
    found = [hex(value) for value in hash64(pa.array(["", "a", "foobar", "é"]))]
    assert found == ["0xefd01f60ba992926", "0x82a2a958a9bece5b", "0x2c22194922d1672b", "0x9d55ccb9ba86763b"]


@given(st.lists(st.text()), st.integers(-(2**70), 2**70))
def test_hash_equals_the_plain_implementation(texts: list[str], seed: int) -> None:
    assert hash64(pa.array(texts, pa.string()), seed).tolist() == [reference(text, seed) for text in texts]


def test_a_slice_hashes_as_its_own_values() -> None:
    texts = pa.array(["skipped", "a", "foobar", "skipped"])
    assert hash64(texts.slice(1, 2)).tolist() == [reference("a"), reference("foobar")]


def test_buckets_fill_evenly() -> None:
    hashes = hash64(pa.array([str(number) for number in range(10_000)]))
    counts = [int((hashes % 10 == bucket).sum()) for bucket in range(10)]
    assert 900 < min(counts) <= max(counts) < 1100
