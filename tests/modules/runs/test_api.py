"""What every contract says of its events in the same way."""

import asyncio

import pytest

from app.modules.runs.api import CursorMalformed, Event, paced, seq_of


class Coming:
    """Events that are put in one after the other; remembers that it was closed."""

    def __init__(self):
        self.queue = asyncio.Queue()
        self.is_closed = False

    async def events(self):
        try:
            while (event := await self.queue.get()) is not None:
                yield event
        finally:
            self.is_closed = True


def event(seq):
    return Event(seq, "word", {}, 0)


class TestPaced:
    async def test_hands_on_every_event(self):
        coming = Coming()
        for one in (event(1), event(2), None):
            coming.queue.put_nowait(one)

        async with paced(coming.events()) as told:
            assert [one async for one in told] == [event(1), event(2)]

    async def test_says_when_none_has_come_for_long(self):
        coming = Coming()

        async with paced(coming.events(), every_s=0.001) as told:
            assert [await anext(told), await anext(told)] == [None, None]

    async def test_loses_no_event_to_a_silence(self):
        coming = Coming()

        async with paced(coming.events(), every_s=0.001) as told:
            await anext(told)
            coming.queue.put_nowait(event(1))
            found = [one async for one in _until_event(told)]

        assert found[-1] == event(1)

    async def test_whoever_leaves_closes_what_was_followed(self):
        coming = Coming()

        async with paced(coming.events(), every_s=0.001) as told:
            await anext(told)

        assert coming.is_closed

    async def test_what_fails_is_raised(self):
        async def broken():
            raise ValueError("gone")
            yield event(1)

        async with paced(broken()) as told:
            with pytest.raises(ValueError, match="gone"):
                await anext(told)


class TestSeqOf:
    @pytest.mark.parametrize(("given", "seq"), [(None, 0), ("", 0), ("0", 0), ("17", 17)])
    def test_reads_the_number_of_an_event(self, given, seq):
        assert seq_of(given) == seq

    @pytest.mark.parametrize("given", ["-1", "1.5", "abc", "9" * 19, "1 "])
    def test_refuses_all_else(self, given):
        with pytest.raises(CursorMalformed):
            seq_of(given)


async def _until_event(told):
    async for one in told:
        yield one
        if one is not None:
            return
