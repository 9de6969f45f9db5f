"""The same work without a server: what the figures are held against."""

import hashlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.processes import BenchError
from benchmarks.storage.wire import HOST, READ_BYTES

# What receives a file of the given size through a socket, hashes it, and keeps it when told where.
RECEIVER: Final = """
import hashlib, os, socket, sys
size, path = int(sys.argv[1]), sys.argv[2]
door = socket.create_server(("127.0.0.1", 0))
print(door.getsockname()[1], flush=True)
line, _ = door.accept()
digest, room = hashlib.sha256(), bytearray(262144)
view = memoryview(room)
file = open(path, "wb", buffering=0)
while size:
    count = line.recv_into(room)
    digest.update(view[:count])
    file.write(view[:count])
    size -= count
os.fsync(file.fileno())
line.sendall(digest.digest())
"""
SENDER: Final = """
import socket, sys
door = socket.create_server(("127.0.0.1", 0))
print(door.getsockname()[1], flush=True)
line, _ = door.accept()
file = open(sys.argv[1], "rb", buffering=0)
while piece := file.read(262144):
    line.sendall(piece)
"""


def write_and_commit(folder: Path, body: bytes, for_s: float) -> float:
    """Writes a second: a file that is written and fsynced, and one row that is committed."""
    folder.mkdir(exist_ok=True)
    database = sqlite3.connect(folder / "rows.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    # As it comes: a commit is on the disk when it returns, which a put of Insula's is too.
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, size INTEGER)")
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < for_s:
        name = os.urandom(16).hex()
        with (folder / name).open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        database.execute("INSERT INTO rows VALUES (?, ?)", (name, len(body)))
        count += 1
    took = time.perf_counter() - began
    database.close()
    return count / took


def upload(file: Path, kept: Path) -> float:
    """Seconds from the first byte to the digest of a file that has been hashed and fsynced."""
    size = file.stat().st_size
    with _other(RECEIVER, str(size), str(kept)) as (process, line):
        began = time.perf_counter()
        with file.open("rb") as source:
            line.sendfile(source)
        if len(line.recv(64)) != hashlib.sha256().digest_size:
            raise BenchError("the receiver has failed")
        took = time.perf_counter() - began
        process.wait()
    kept.unlink()
    return took


def download(file: Path) -> float:
    """Seconds until a file that another process reads has come through a socket and is hashed."""
    digest, left = hashlib.sha256(), file.stat().st_size
    with _other(SENDER, str(file)) as (process, line):
        began = time.perf_counter()
        while left:
            piece = line.recv(READ_BYTES)
            digest.update(piece)
            left -= len(piece)
        took = time.perf_counter() - began
        process.wait()
    return took


class _other:  # noqa: N801 - used as a function
    """A process at the other end of a socket."""

    def __init__(self, program: str, *arguments: str) -> None:
        command = [sys.executable, "-c", program, *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> tuple["subprocess.Popen[str]", socket.socket]:
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self._line = socket.create_connection((HOST, port))
        return self._process, self._line

    def __exit__(self, *_: object) -> None:
        self._line.close()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
