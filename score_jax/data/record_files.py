"""Records of ArrayRecord and TFRecord files by their position, without TensorFlow."""

import functools
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

MAX_RECORD = 64 << 20  # Bytes.
_POLYNOMIAL = 0x82F63B78  # Of CRC-32C, reflected.


class ArrayRecords:
    """The records of an ArrayRecord file."""

    def __init__(self, path: Path):
        self._reader = array_record_module.ArrayRecordReader(
            str(path), "readahead_buffer_size:0,max_parallelism:0"
        )

    def __len__(self) -> int:
        return self._reader.num_records()

    def read(self, positions: Sequence[int]) -> list[bytes]:
        """The records at these positions, in their order."""
        return self._reader.read(list(positions))

    def close(self) -> None:
        """Lets go of the file."""
        self._reader.close()


class TFRecords:
    """The records of a TFRecord file, each checked by its CRC-32C.

    Raises:
      ValueError: the file is cut short, or a length or a content has another checksum.
    """

    def __init__(self, path: Path):
        self._file = path.open("rb")
        size = path.stat().st_size
        offsets, heads, at = [], [], 0
        while at < size:
            head = self._file.read(12)
            if len(head) < 12:
                raise ValueError("it is cut short")
            (length,) = struct.unpack("<Q", head[:8])
            if length > MAX_RECORD or at + length + 16 > size:
                raise ValueError("it is cut short, or a length in it is damaged")
            offsets.append(at)
            heads.append(head)
            at += length + 16
            self._file.seek(at)
        self._offsets = np.array(offsets, np.int64)
        expected = np.array([struct.unpack("<I", head[8:])[0] for head in heads], np.uint32)
        if not np.array_equal(masked_crc32c([head[:8] for head in heads]), expected):
            raise ValueError("a length in it is damaged")

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, positions: Sequence[int]) -> list[bytes]:
        """The records at these positions, in their order."""
        records, expected = [], []
        for position in positions:
            self._file.seek(self._offsets[position])
            (length,) = struct.unpack("<Q", self._file.read(12)[:8])
            content = self._file.read(length + 4)
            records.append(content[:-4])
            expected.append(struct.unpack("<I", content[-4:])[0])
        if not np.array_equal(masked_crc32c(records), np.array(expected, np.uint32)):
            raise ValueError("a record has another checksum than was written")
        return records

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


@functools.cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


def masked_crc32c(records: Sequence[bytes]) -> np.ndarray:
    """TFRecord's checksum of each record: uint32[n]. All records advance together, by bytes."""
    table = _table()
    order = sorted(range(len(records)), key=lambda i: -len(records[i]))
    lengths = np.array([len(records[i]) for i in order], np.int64)
    width = int(lengths[0]) if len(lengths) else 0
    columns = np.zeros((width, len(records)), np.uint8)
    for place, i in enumerate(order):
        columns[: lengths[place], place] = np.frombuffer(records[i], np.uint8)
    # How many records are longer than each position.
    longer = np.searchsorted(-lengths, -np.arange(width), side="left")
    state = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for column, active in zip(columns, longer.tolist(), strict=True):
        part = state[:active]
        state[:active] = table[(part ^ column[:active]) & 255] ^ (part >> 8)
    state = ~state
    masked = ((state >> 15) | (state << 17)) + np.uint32(0xA282EAD8)
    result = np.empty_like(masked)
    result[order] = masked
    return result
