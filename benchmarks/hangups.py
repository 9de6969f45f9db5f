"""Clients that leave: does the upstream see it, and how soon?"""

import asyncio
import json
import time
from typing import Any

from benchmarks.processes import BenchError, Server, ask
from benchmarks.targets import CLIENT_KEY, LONG_MODEL, SLOW_MODEL, Street, body, make_ready

CALLS = 20
EVENTS_BEFORE = 5
PLAIN_PATIENCE_S = 0.3
STREAM_PATIENCE_S = 10.0
CUT_LIMIT_S = 1.2
READ_BYTES = 65_536

HangUp = dict[str, Any]


def cut(street: Street) -> dict[str, HangUp]:
    """Cut streams and plain calls through each gateway, one gateway after the other."""
    servers = [street.reference(), street.insula(street.folder())]
    if street.places.litellm_python:
        servers.append(street.litellm())
    seen = {}
    for server in servers:
        with street.started(server):
            make_ready(server)
            seen[server.name] = {
                "streams": _cut_all(street, server, body(LONG_MODEL, stream=True), "streams_cut"),
                "plain": _cut_all(street, server, body(SLOW_MODEL), "plain_cut"),
            }
    return seen


def _cut_all(street: Street, server: Server, text: str, counter: str) -> HangUp:
    port = street.upstream.port
    ask(port, "/reset", body="{}")
    left_us = asyncio.run(_leave_all(server.port, text))
    before = _stats(port)
    time.sleep(CUT_LIMIT_S)
    after = _stats(port)
    if before["requests"] != CALLS:
        raise BenchError(f"{server.name}: the upstream saw {before['requests']} of {CALLS} calls")
    late_ms = max(0, after["last_cut_us"] - left_us) / 1000 if after[counter] else None
    return {"calls": CALLS, "cut": after[counter], "last_after_ms": late_ms}


async def _leave_all(port: int, text: str) -> int:
    return max(await asyncio.gather(*(_leave(port, text) for _ in range(CALLS))))


async def _leave(port: int, text: str) -> int:
    """Ask, read some events or wait a little, and be gone; answer when, in microseconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\nauthorization: Bearer {CLIENT_KEY}\r\n"
        f"content-length: {len(text)}\r\n\r\n{text}".encode()
    )
    patience_s = STREAM_PATIENCE_S if '"stream":true' in text else PLAIN_PATIENCE_S
    seen = 0
    try:
        async with asyncio.timeout(patience_s):
            while seen < EVENTS_BEFORE and (some := await reader.read(READ_BYTES)):
                seen += some.count(b"data:")
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic_ns() // 1000


def _stats(port: int) -> dict[str, int]:
    return json.loads(ask(port, "/stats")[1])
