"""Bytes that are kept for long and rarely looked at, compressed with Zstandard before they are sent to the database.

PostgreSQL would compress them, too, with pglz: to the same size in several times the time, on the server, for every row that
is written and every one that is read. A column for them has `STORAGE EXTERNAL`, so that it does not try.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

#: The fastest. Higher levels save a tenth of the space for twice the time.
LEVEL: Final = 1

_per_thread = threading.local()


def compress(raw: bytes) -> bytes:
    """One frame that `decompress` turns back into `raw`."""
    compressor = getattr(_per_thread, "compressor", None)
    if compressor is None:
        # Making one costs more than using it, and two threads must not use the same.
        compressor = _per_thread.compressor = zstandard.ZstdCompressor(level=LEVEL)
    return bytes(compressor.compress(raw))


def decompress(kept: bytes) -> bytes:
    """The bytes that `compress` was given. What is no whole frame is returned as it is."""
    decompressor = getattr(_per_thread, "decompressor", None)
    if decompressor is None:
        decompressor = _per_thread.decompressor = zstandard.ZstdDecompressor()
    try:
        return bytes(decompressor.decompress(kept))
    except zstandard.ZstdError:
        return kept
