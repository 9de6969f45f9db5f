"""The same calls without a server: bare asyncio, and a committed row for each node."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path

import aiohttp

from benchmarks.processes import BenchError


async def run(
    rows: Path, url: str, synchronous: str, *, executions: int, nodes: int, at_once: int
) -> tuple[float, list[float]]:
    """Seconds for all executions, and for each of them. A node waits for the one before it.

    ``rows`` is where the rows are written, a file that is not there yet.
    """
    database = sqlite3.connect(rows, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(f"PRAGMA synchronous={synchronous}")
    database.execute("CREATE TABLE nodes (execution INTEGER, node INTEGER, output TEXT)")
    waiting = list(range(executions))
    took: list[float] = []
    began = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def work() -> None:
            while waiting:
                number, since = waiting.pop(), time.perf_counter()
                given: dict[str, object] = {"question": "how are you", "number": number}
                for node in range(nodes):
                    call = {"execution_id": number, "node_id": node, "input": given, "config": {}}
                    async with session.post(f"{url}/execute", json=call) as answer:
                        output = (await answer.json())["output"]
                    row = (number, node, json.dumps(output))
                    database.execute("INSERT INTO nodes VALUES (?, ?, ?)", row)
                    given |= output
                took.append(time.perf_counter() - since)

        await asyncio.gather(*(work() for _ in range(at_once)))
    total = time.perf_counter() - began
    [count] = database.execute("SELECT count(*) FROM nodes").fetchone()
    database.close()
    if count != executions * nodes:
        raise BenchError(f"{count} rows by hand, not {executions * nodes}")
    return total, took
