"""The watch over clients that may hang up."""

import asyncio

import pytest

from app.modules.routing.controllers.warden import Warden
from tests.waiting import until


class Client:
    """Hangs up when it is told to; counts who listens for it."""

    def __init__(self) -> None:
        self.listeners = 0
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        self.listeners += 1
        try:
            await self.gone.wait()
        finally:
            self.listeners -= 1
        return {"type": "http.disconnect"}


@pytest.fixture
def warden():
    return Warden()


async def called(warden: Warden, client: Client, done: asyncio.Event) -> str:
    with warden.watch(client.receive):
        await done.wait()
        return "answered"
    return "left"


async def test_a_call_that_is_left_is_cancelled_and_ends_quietly(warden):
    client = Client()
    call = asyncio.create_task(called(warden, client, asyncio.Event()))
    await until(lambda: client.listeners)

    client.gone.set()

    assert await call == "left"
    assert call.cancelling() == 0


async def test_only_the_call_of_that_client_is_cancelled(warden):
    staying, leaving, done = Client(), Client(), asyncio.Event()
    calls = [asyncio.create_task(called(warden, client, done)) for client in (staying, leaving)]
    await until(lambda: staying.listeners and leaving.listeners)

    leaving.gone.set()
    assert await calls[1] == "left"
    done.set()

    assert await calls[0] == "answered"


async def test_who_is_answered_is_listened_to_no_longer(warden):
    client, done = Client(), asyncio.Event()
    call = asyncio.create_task(called(warden, client, done))
    await until(lambda: client.listeners)

    done.set()
    assert await call == "answered"

    await until(lambda: not client.listeners)


async def test_a_call_that_ends_at_once_is_never_listened_to(warden):
    short, long, done = Client(), Client(), asyncio.Event()
    done.set()
    assert await called(warden, short, done) == "answered"

    call = asyncio.create_task(called(warden, long, asyncio.Event()))
    await until(lambda: long.listeners)

    assert short.listeners == 0
    long.gone.set()
    assert await call == "left"


async def test_a_cancellation_from_elsewhere_goes_on(warden):
    client = Client()
    call = asyncio.create_task(called(warden, client, asyncio.Event()))
    await until(lambda: client.listeners)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


async def test_watches_again_after_a_time_without_calls(warden):
    for _ in range(2):
        client = Client()
        call = asyncio.create_task(called(warden, client, asyncio.Event()))
        await until(lambda client=client: client.listeners)
        client.gone.set()
        assert await call == "left"
