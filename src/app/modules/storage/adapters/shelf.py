"""The vectors of one collection in files that are mapped into memory.

Two files grow together: ``rows`` says what each change was, ``vectors`` has its float32 numbers.
They are only ever written behind their end, rows after vectors, and each row has a check over
both; so a crash leaves a shelf that is whole, only shorter. The newest change of an item counts.
What is dead is left behind when the live rest is copied to the files of the next generation.
"""

import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import numpy as np

from app.modules.storage.adapters.scan import FLOAT, Array, View, item_key, lengths, tag_key
from app.modules.storage.domain.vectors import FLOAT_BYTES, TAGS_LIMIT
from app.modules.storage.repository.vectors import Step

FORMAT: Final = 1
FIRST_ROWS: Final = 64
# Files double, up to steps of so many rows.
STEP_ROWS: Final = 65_536
# A shelf is copied when more is dead than alive, and when that is worth it.
DEAD_ROWS: Final = 1024
# Rows that are checked or copied at a time.
PART_ROWS: Final = 4096
HEADER_NAME: Final = "header.json"

ROW: Final = np.dtype(
    [
        ("item", "S64"),
        ("tags", "<u8", (TAGS_LIMIT,)),
        ("key", "<u8"),
        ("seq", "<i8"),
        ("length", "<f8"),
        ("check", "<u8"),
        ("epoch", "<i4"),
        ("is_live", "<u4"),
    ]
)


class Header(msgspec.Struct, frozen=True):
    """``base_seq`` is how far the collection was when this generation began."""

    format: int
    collection: str
    dimension: int
    generation: int
    base_seq: int


class Columns:
    """What each search and each change looks at, beside the files."""

    def __init__(self) -> None:
        self.count = 0
        self.is_live = np.zeros(FIRST_ROWS, np.bool_)
        self.epochs = np.zeros(FIRST_ROWS, np.int32)
        self.keys = np.zeros(FIRST_ROWS, np.uint64)
        self.scales = np.zeros(FIRST_ROWS, np.float32)
        self.most_tags = 0

    def add(self, rows: Array) -> None:
        start, end = self.count, self.count + len(rows)
        if end > len(self.is_live):
            self._grow(max(end, 2 * len(self.is_live)))
        self.is_live[start:end] = rows["is_live"] == 1
        self.epochs[start:end] = rows["epoch"]
        self.keys[start:end] = rows["key"]
        # A tombstone has no length.
        self.scales[start:end] = 1.0 / np.where(rows["length"] > 0, rows["length"], np.inf)
        self.most_tags = max(self.most_tags, int(np.count_nonzero(rows["tags"].any(axis=0))))
        self.count = end

    def bury(self, keys: Sequence[int]) -> None:
        """What was there of these items counts no more."""
        known = self.keys[: self.count]
        self.is_live[: self.count] &= ~np.isin(known, np.array(keys, np.uint64))

    def _grow(self, size: int) -> None:
        self.is_live = np.resize(self.is_live, size)
        self.epochs = np.resize(self.epochs, size)
        self.keys = np.resize(self.keys, size)
        self.scales = np.resize(self.scales, size)


class Shelf:
    """Opens what is there, or begins anew where that is not this collection's, or is damaged.

    ``applied`` is the collection's ``seq`` up to which every change is here.
    """

    applied: int
    _columns: Columns
    _rows: Array
    _vectors: Array
    _rows_path: Path
    _vectors_path: Path

    def __init__(self, folder: Path, collection_id: UUID, dimension: int) -> None:
        self._folder = folder
        self._collection_id = collection_id
        self._dimension = dimension
        for one in (folder.parent, folder):
            one.mkdir(mode=0o700, exist_ok=True)
        header = self._read_header()
        if header is None or not self._load(header):
            self.clear()

    @property
    def live_count(self) -> int:
        columns = self._columns
        return int(np.count_nonzero(columns.is_live[: columns.count]))

    def clear(self) -> None:
        """Begin anew, with nothing."""
        self._begin()
        self._seal(0)

    def view(self) -> View:
        columns, count = self._columns, self._columns.count
        return View(
            self._rows[:count],
            self._vectors[:count],
            # What dies from now on is still there for who searches now.
            columns.is_live[:count].copy(),
            columns.epochs[:count],
            columns.scales[:count],
            columns.most_tags,
            self._collection_id.bytes,
        )

    def append(self, steps: Sequence[Step]) -> None:
        """Take changes in, in the order of their ``seq``, each above ``applied``."""
        vectors = np.zeros((len(steps), self._dimension), FLOAT)
        for i, step in enumerate(steps):
            if not step.is_deleted:
                vectors[i] = np.frombuffer(step.vector, FLOAT)
        rows = self._rows_of(steps, vectors)
        self._write(rows, vectors)
        earlier = [int(row["key"]) for row, step in zip(rows, steps, strict=True) if step.rev > 1]
        if earlier:
            self._columns.bury(earlier)
        self._columns.add(rows)
        self.applied = steps[-1].seq

    def compact(self) -> None:
        """Leave the dead behind, when there are more of them than of the living.

        A shelf that fails on the way is of no use, until it is opened again.
        """
        columns = self._columns
        live = np.flatnonzero(columns.is_live[: columns.count])
        if columns.count - len(live) <= max(len(live), DEAD_ROWS):
            return
        rows, vectors = self._rows, self._vectors
        self._begin()
        for start in range(0, len(live), PART_ROWS):
            part = live[start : start + PART_ROWS]
            self._write(rows[part], vectors[part])
            self._columns.add(rows[part])
        self._seal(self.applied)

    def _read_header(self) -> Header | None:
        try:
            raw = (self._folder / HEADER_NAME).read_bytes()
            header = msgspec.json.decode(raw, type=Header)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        wanted = (FORMAT, self._collection_id.hex, self._dimension)
        return header if (header.format, header.collection, header.dimension) == wanted else None

    def _begin(self) -> None:
        """Go over to empty files of a new generation, which nobody finds until it is sealed."""
        self._name(self._next_generation())
        for path in (self._rows_path, self._vectors_path):
            _create(path)
        self._columns = Columns()
        self._grow(FIRST_ROWS)

    def _seal(self, base_seq: int) -> None:
        """Make these files the ones that count; all changes up to ``base_seq`` are in them."""
        self.applied = base_seq
        generation = int(self._rows_path.stem)
        header = Header(FORMAT, self._collection_id.hex, self._dimension, generation, base_seq)
        fresh = self._rows_path.with_suffix(".header")
        _create(fresh, msgspec.json.encode(header))
        fresh.replace(self._folder / HEADER_NAME)
        self._remove_others()

    def _next_generation(self) -> int:
        """Larger than that of any file that is there."""
        numbers = [path.name.partition(".")[0] for path in self._folder.iterdir()]
        return 1 + max((int(one) for one in numbers if one.isdecimal()), default=0)

    def _load(self, header: Header) -> bool:
        """Map what is there; whether all of it is as it was written."""
        self._name(header.generation)
        try:
            capacity = self._rows_path.stat().st_size // ROW.itemsize
            vector_bytes = self._vectors_path.stat().st_size
        except FileNotFoundError:
            return False
        if capacity == 0 or vector_bytes < capacity * self._dimension * FLOAT_BYTES:
            return False
        self._map(capacity)
        written = np.flatnonzero(self._rows["seq"])
        rows = self._rows[: len(written)]
        if (len(written) and written[-1] != len(written) - 1) or not _is_whole(rows, self._vectors):
            return False
        self._columns = Columns()
        self._columns.add(rows)
        self._columns.is_live[: len(rows)] &= _is_newest(rows["key"])
        self.applied = max([header.base_seq, *rows["seq"][-1:].tolist()])
        self._remove_others()
        return True

    def _name(self, generation: int) -> None:
        self._rows_path = self._folder / f"{generation}.rows"
        self._vectors_path = self._folder / f"{generation}.vectors"

    def _remove_others(self) -> None:
        kept = {self._rows_path.name, self._vectors_path.name, HEADER_NAME}
        for path in self._folder.iterdir():
            if path.name not in kept:
                # Some systems keep a file as long as somebody has it mapped.
                with suppress(PermissionError):
                    path.unlink()

    def _rows_of(self, steps: Sequence[Step], vectors: Array) -> Array:
        salt = self._collection_id.bytes
        rows = np.zeros(len(steps), ROW)
        rows["item"] = [step.item_id.encode() for step in steps]
        rows["key"] = [item_key(salt, step.item_id) for step in steps]
        rows["seq"] = [step.seq for step in steps]
        rows["epoch"] = [step.epoch for step in steps]
        rows["is_live"] = [not step.is_deleted for step in steps]
        for row, step in zip(rows, steps, strict=True):
            keys = [tag_key(salt, name, value) for name, value in step.tags.items()]
            row["tags"][: len(keys)] = keys
        rows["length"] = lengths(vectors)
        rows["check"] = _checks(rows, vectors)
        return rows

    def _write(self, rows: Array, vectors: Array) -> None:
        start, end = self._columns.count, self._columns.count + len(rows)
        if end > len(self._rows):
            self._grow(end)
        _write_at(self._vectors_path, start * self._dimension * FLOAT_BYTES, vectors)
        _write_at(self._rows_path, start * ROW.itemsize, rows)

    def _grow(self, wanted: int) -> None:
        capacity = FIRST_ROWS
        while capacity < wanted:
            capacity += min(capacity, STEP_ROWS)
        os.truncate(self._vectors_path, capacity * self._dimension * FLOAT_BYTES)
        os.truncate(self._rows_path, capacity * ROW.itemsize)
        self._map(capacity)

    def _map(self, capacity: int) -> None:
        shape = (capacity, self._dimension)
        self._rows = np.asarray(np.memmap(self._rows_path, ROW, "r", shape=(capacity,)))
        self._vectors = np.asarray(np.memmap(self._vectors_path, FLOAT, "r", shape=shape))


def _is_newest(keys: Array) -> Array:
    """Which rows are the last of their item."""
    _, from_end = np.unique(keys[::-1], return_index=True)
    found = np.zeros(len(keys), np.bool_)
    found[len(keys) - 1 - from_end] = True
    return found


def _checks(rows: Array, vectors: Array) -> list[int]:
    plain = rows.copy()
    plain["check"] = 0
    described = plain.tobytes()
    numbers = np.ascontiguousarray(vectors).data.cast("B")
    row_bytes, vector_bytes = ROW.itemsize, len(numbers) // max(len(rows), 1)
    return [
        zlib.crc32(
            numbers[i * vector_bytes : (i + 1) * vector_bytes],
            zlib.crc32(described[i * row_bytes : (i + 1) * row_bytes]),
        )
        for i in range(len(rows))
    ]


def _is_whole(rows: Array, vectors: Array) -> bool:
    for start in range(0, len(rows), PART_ROWS):
        part = rows[start : start + PART_ROWS]
        if _checks(part, vectors[start : start + len(part)]) != part["check"].tolist():
            return False
    return bool((np.diff(rows["seq"]) > 0).all())


def _create(path: Path, content: bytes = b"") -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _write_at(path: Path, offset: int, content: Array) -> None:
    # Not through the mapping: a full disk would end the process there, and is an error here.
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(np.ascontiguousarray(content).data)
