"""Clients that leave, in every phase of a call: does the upstream see it, and how soon?"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from benchmarks.furnish import furnished, told
from benchmarks.processes import BenchError, Server, ask, sockets, tree
from benchmarks.targets import CLIENT_KEY, INSULA, PLAIN_MODEL, Street, body, make_ready

CALLS = 20
EVENTS_BEFORE = 5
PATIENCE_S = 0.3
PHASE_LIMIT_S = 10.0
CUT_LIMIT_S = 1.2
LOOK_EVERY_S = 0.001
READ_BYTES = 65_536
STREAM = '"stream":true'
DEAF = "deaf"
# Of a call that is connecting: its client's, and the one that is to be the upstream's.
SOCKETS_A_CALL = 2

STREAMING = "streaming"
WAITING = "waiting for the first byte"
CONNECTING = "connecting to the upstream"
QUEUED = "queued for the upstream"
PHASES: Final = (QUEUED, CONNECTING, WAITING, STREAMING)

# By phase, then by kind: "plain" or "streamed".
HangUps = dict[str, dict[str, dict[str, Any]]]


def cut(street: Street) -> dict[str, HangUps]:
    """Leave each gateway in each phase that can be watched from outside, one after the other."""
    seen = {}
    for server in (street.reference(), *street.peers()):
        with street.started(server):
            make_ready(server)
            seen[server.name] = _seen_by_upstream(street, server)
    with _deaf_server() as (port, deafen):
        settings = {
            "ROUTING_PARALLEL": str(CALLS),
            f"EXTERNAL_{DEAF.upper()}_KEY": "none",
            f"{DEAF.upper()}_BASE_URL": f"http://127.0.0.1:{port}/v1",
        }
        with furnished(street, **settings) as server:
            seen[INSULA] = _seen_by_upstream(street, server)
            seen[INSULA][QUEUED] = _leave_the_queue(street, server)
            deafen()
            seen[INSULA][CONNECTING] = _leave_connecting(server)
    return seen


def _seen_by_upstream(street: Street, server: Server) -> HangUps:
    """The phases that the upstream itself can see the end of.

    Each has numbers of its own: a call that nobody cuts may end in the middle of the next.
    """
    plain = {n: body(PLAIN_MODEL, script=f"call-{n}-d5000") for n in _numbers(100)}
    silent = {n: body(PLAIN_MODEL, script=f"call-{n}-w5000", stream=True) for n in _numbers(200)}
    slow = {n: body(PLAIN_MODEL, script=f"call-{n}-n200-d30", stream=True) for n in _numbers(300)}
    return {
        WAITING: {
            "plain": _told_by_upstream(street, server, plain),
            "streamed": _told_by_upstream(street, server, silent),
        },
        STREAMING: {"streamed": _told_by_upstream(street, server, slow)},
    }


def _told_by_upstream(street: Street, server: Server, texts: dict[int, str]) -> dict[str, Any]:
    """Leave calls, by their numbers, and ask the upstream until it has seen all of them cut."""
    upstream = street.upstream.port
    ask(upstream, "/reset", body="{}")
    left_us = dict(zip(texts, asyncio.run(_leave_all(server, texts.values())), strict=True))
    late_us: dict[int, int] = {}
    until_s = time.monotonic() + CUT_LIMIT_S
    while len(late_us) < CALLS and time.monotonic() < until_s:
        calls = [c for c in json.loads(ask(upstream, "/calls")[1]) if c["number"] in left_us]
        late_us = {c["number"]: c["cut_us"] - left_us[c["number"]] for c in calls if c["cut"]}
    if len(calls) != CALLS:
        raise BenchError(f"{server.name}: the upstream saw {len(calls)} of {CALLS} calls")
    return _cut(len(late_us), max(late_us.values()) / 1000 if late_us else None)


def _leave_the_queue(street: Street, server: Server) -> dict[str, dict[str, Any]]:
    """Fill every place with calls that stay; those behind them must never reach the upstream."""

    def queued() -> int:
        return sum(found["queued"] for found in _upstreams(server))

    async def leave(is_streamed: bool) -> dict[str, Any]:
        ask(street.upstream.port, "/reset", body="{}")
        stay = [body(PLAIN_MODEL, script=f"call-{n}-d8000") for n in _numbers(CALLS)]
        go = [body(PLAIN_MODEL, script=f"call-{n}", stream=is_streamed) for n in _numbers()]
        inside = [await _send(server, text) for text in stay]
        await _until(lambda: len(json.loads(ask(street.upstream.port, "/calls")[1])) == CALLS)
        found = await _leave_when(server, go, queued)
        for _, writer in inside:
            writer.transport.abort()
        await _until(lambda: not any(p["in_flight"] for p in _upstreams(server)))
        calls = json.loads(ask(street.upstream.port, "/calls")[1])
        reached = sum(call["number"] <= CALLS for call in calls)
        return found | {"cut": found["cut"] - reached}

    return {
        "plain": asyncio.run(leave(is_streamed=False)),
        "streamed": asyncio.run(leave(is_streamed=True)),
    }


def _leave_connecting(server: Server) -> dict[str, dict[str, Any]]:
    """Leave while the gateway's own connections are being opened, which it holds sockets for."""
    target = {"targets": [{"upstream": DEAF, "model": PLAIN_MODEL}]}
    told(server, f"/api/v1/routing/models/{DEAF}", target, method="PUT")
    # The key of the measured calls is for no such model.
    owner = Server(server.name, (), {}, server.port, key=CLIENT_KEY)
    pids = list(tree(server.pid))
    before = sockets(pids)

    def connecting() -> int:
        return max(0, sockets(pids) - before)

    async def leave(is_streamed: bool) -> dict[str, Any]:
        texts = [body(DEAF, stream=is_streamed)] * CALLS
        return await _leave_when(owner, texts, connecting, each=SOCKETS_A_CALL)

    return {
        "plain": asyncio.run(leave(is_streamed=False)),
        "streamed": asyncio.run(leave(is_streamed=True)),
    }


async def _leave_when(
    server: Server, texts: list[str], count: Callable[[], int], *, each: int = 1
) -> dict[str, Any]:
    """Leave all at once when ``count`` says that all are there; wait until it says that none is.

    ``each``: what one call counts.
    """
    links = [await _send(server, text) for text in texts]
    await _until(lambda: count() == CALLS * each)
    for _, writer in links:
        writer.transport.abort()
    left_s = time.monotonic()
    remaining = CALLS
    while remaining and time.monotonic() - left_s < CUT_LIMIT_S:
        await asyncio.sleep(LOOK_EVERY_S)
        remaining = min(CALLS, -(-count() // each))
    late_ms = (time.monotonic() - left_s) * 1000
    return _cut(CALLS - remaining, None if remaining == CALLS else late_ms)


async def _leave_all(server: Server, texts: Iterable[str]) -> list[int]:
    """When each client has left, in microseconds."""
    return await asyncio.gather(*(_leave(server, text) for text in texts))


async def _leave(server: Server, text: str) -> int:
    """Ask, read some events or wait a little, and be gone."""
    reader, writer = await _send(server, text)
    seen = 0
    try:
        async with asyncio.timeout(PATIENCE_S):
            while seen < EVENTS_BEFORE and (some := await reader.read(READ_BYTES)):
                seen += some.count(b"data:")
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic_ns() // 1000


async def _send(server: Server, text: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n"
        f"content-type: application/json\r\nauthorization: Bearer {server.key}\r\n"
        f"content-length: {len(text)}\r\n\r\n{text}".encode()
    )
    return reader, writer


async def _until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PHASE_LIMIT_S
    while not condition():
        if time.monotonic() > until_s:
            raise BenchError("The calls that are to be left do not come into their phase.")
        await asyncio.sleep(LOOK_EVERY_S)


def _upstreams(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(server, "/api/v1/routing/upstreams")["items"]
    return found


def _numbers(after: int = 0) -> range:
    return range(after + 1, after + 1 + CALLS)


def _cut(count: int, late_ms: float | None) -> dict[str, Any]:
    late_ms = None if late_ms is None else round(max(0.0, late_ms), 3)
    return {"calls": CALLS, "cut": count, "last_after_ms": late_ms}


@contextlib.contextmanager
def _deaf_server() -> Iterator[tuple[int, Callable[[], None]]]:
    """A port that refuses connections, and what makes it leave them hanging instead.

    A listener whose queue is full, here with one, lets the kernel drop whoever else knocks.
    """
    with socket.socket() as door, socket.socket() as only:
        door.bind(("127.0.0.1", 0))

        def deafen() -> None:
            door.listen(0)
            only.connect(door.getsockname())

        yield door.getsockname()[1], deafen
