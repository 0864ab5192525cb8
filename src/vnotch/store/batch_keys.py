"""Batch keys: by which a batch that is delivered again is recognised, and stored once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.coded import coded, codes_of, is_coded, ordered
from vnotch.fields import Format
from vnotch.store.ducklake import Catalog

BATCH_KEYS = 2_000_000
"""How many batch keys are held in memory; beyond it the oldest are forgotten, and counted."""

BATCH_KEY_SECONDS = 48 * 3600


def batch_key(group_id: int, stream_id: int, batch_id: str, events: pa.Table) -> bytes:
    """The key under which a batch counts once, bound to its stream and to its content.

    A caller who repeats somebody else's id gets a key of its own, so that no id can suppress other data.
    """
    digest = hashlib.blake2b(_about(group_id, stream_id, batch_id), digest_size=16)
    digest.update(events["timestamp_ms"].to_numpy().tobytes())
    _add_texts(digest, events["message"])
    return digest.digest()


def record_batch_key(group_id: int, stream_id: int, batch_id: str, records: pa.Table, format: Format) -> bytes:
    """The same for records in typed columns. SHA-256, which processors have instructions for: there are many."""
    digest = hashlib.sha256(_about(group_id, stream_id, batch_id))
    digest.update(format.text.encode())
    for column in records.columns:
        if is_coded(column.type) or pa.types.is_string(column.type):
            _add_coded(digest, ordered(coded(column)))
        else:
            digest.update((column.fill_null(-1) if column.null_count else column).to_numpy())
    return digest.digest()[:16]


def _add_coded(digest: Any, column: pa.DictionaryArray) -> None:
    """No codes where all rows have one text."""
    texts = column.dictionary
    _add_texts(digest, pa.chunked_array([texts]))
    if len(texts) != 1 or column.indices.null_count:
        digest.update(codes_of(column).data)


def _about(group_id: int, stream_id: int, batch_id: str) -> bytes:
    return f"{group_id} {stream_id} {len(batch_id)} {batch_id}".encode()


def _add_texts(digest: Any, texts: pa.ChunkedArray) -> None:
    digest.update(pc.binary_length(texts).to_numpy().tobytes())
    for chunk in texts.chunks:
        if len(chunk):
            offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            digest.update(memoryview(chunk.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])])


class BatchKeys:
    """The batch keys of the last two days, oldest first, bounded in number."""

    def __init__(self, limit: int = BATCH_KEYS) -> None:
        self._keys: OrderedDict[bytes, int] = OrderedDict()
        self._limit = limit
        self.forgotten = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, keys: Iterable[bytes], committed_ms: int) -> None:
        for key in keys:
            self._keys[key] = committed_ms
        while len(self._keys) > self._limit:
            self._keys.popitem(last=False)
            self.forgotten += 1

    def drop_before(self, cutoff_ms: int) -> None:
        while self._keys and next(iter(self._keys.values())) < cutoff_ms:
            self._keys.popitem(last=False)

    def load(self, catalog: Catalog) -> None:
        rows = catalog.writer.execute("SELECT key, committed_ms FROM batches ORDER BY committed_ms").fetchall()
        self._keys = OrderedDict((bytes(key), committed_ms) for key, committed_ms in rows[-self._limit :])


def key_table(keys: set[bytes], committed_ms: int) -> pa.Table:
    return pa.table({"key": pa.array(list(keys), pa.binary()), "committed_ms": [committed_ms] * len(keys)})
