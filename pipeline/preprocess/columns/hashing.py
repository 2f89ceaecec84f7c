"""A stable 64-bit hash of texts: the same on every machine and in every version, for splits and hashed features."""

import numpy as np
import pyarrow as pa

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = np.uint64(0x100000001B3)
MIX_FIRST = np.uint64(0xFF51AFD7ED558CCD)
MIX_SECOND = np.uint64(0xC4CEB9FE1A85EC53)
MASK = (1 << 64) - 1


def hash64(texts: pa.StringArray, seed: int = 0) -> np.ndarray:
    """The uint64 hash of each text's UTF-8 bytes; `texts` holds no null.

    FNV-1a, whose low bits are weak, followed by the finaliser of MurmurHash3. A seed changes the start value.
    """
    lengths, starts, data = _bytes_of(texts)
    # Longest first, so that the texts that still have a byte at a position are a prefix.
    order = np.argsort(-lengths, kind="stable")
    starts, alive = starts[order], np.searchsorted(-lengths[order], -np.arange(lengths.max(initial=0)), side="left")
    hashes = np.full(len(texts), FNV_OFFSET ^ (seed & MASK), dtype=np.uint64)
    for position, count in enumerate(alive):
        hashes[:count] ^= data[starts[:count] + position]
        hashes[:count] *= FNV_PRIME
    result = np.empty_like(hashes)
    result[order] = _mix(hashes)
    return result


def _mix(hashes: np.ndarray) -> np.ndarray:
    hashes = (hashes ^ (hashes >> np.uint64(33))) * MIX_FIRST
    hashes = (hashes ^ (hashes >> np.uint64(33))) * MIX_SECOND
    mixed: np.ndarray = hashes ^ (hashes >> np.uint64(33))
    return mixed


def _bytes_of(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length and start of each text, and the bytes that the starts point into."""
    if not len(texts):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8)
    _, offset_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return np.diff(offsets), offsets[:-1], data
