"""Streams of events that break, begin again, never begin and never end."""

import asyncio
import json

import pytest

import ai_spine
from ai_spine import _following, _sse
from tests.client.callers import caller
from tests.client.plays import answer, cut, plays, silence
from tests.scripted_upstream import Peer, raw_server
from tests.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n"
RESULT = {"execution_id": "e1", "flow_id": "f", "status": "completed"}


def event(number: int, name: str, data: object) -> bytes:
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


def streams(*pieces: bytes, then: object = None):
    """Open a stream, send the pieces, and end it (or break it, or keep it open)."""

    async def step(peer: Peer) -> None:
        await peer.send(HEAD, *pieces)
        if then is not None:
            await then(peer)

    return step


RUNNING = event(1, "status", {"status": "running"})
NODE = event(2, "node", {"node_id": "n", "status": "completed"})
END = event(3, "result", RESULT)


class TestStreamExecution:
    async def test_gives_each_event_and_stops_behind_the_last(self, play):
        scene = await play(streams(RUNNING, b": keep-alive\n\n", NODE, END, then=silence))

        events = await scene.client.all("stream_execution", "e1")

        assert events == [
            {"event": "status", "id": "1", "data": {"status": "running"}},
            {"event": "node", "id": "2", "data": {"node_id": "n", "status": "completed"}},
            {"event": "result", "id": "3", "data": RESULT},
        ]
        assert ai_spine.ExecutionEvent.from_dict(events[2]).data["status"] == "completed"

    @pytest.mark.parametrize("end", [cut, None])
    async def test_goes_on_behind_what_it_has_when_it_breaks(self, play, end):
        scene = await play(streams(RUNNING, NODE[:-1], then=end), streams(NODE, END))

        events = await scene.client.all("stream_execution", "e1")

        assert [said["id"] for said in events] == ["1", "2", "3"]
        assert scene.header("last-event-id") == ["", "1"]
        assert len(scene.client.pauses) == 1

    async def test_begins_where_it_is_told(self, play):
        scene = await play(streams(END))

        await scene.client.all("stream_execution", "e1", last_event_id="2")

        assert scene.header("last-event-id") == ["2"]
        assert scene.header("accept") == ["text/event-stream"]

    async def test_waits_as_long_as_the_stream_says(self, play):
        scene = await play(streams(b"retry: 2500\n" + RUNNING, then=cut), streams(END))

        await scene.client.all("stream_execution", "e1")

        assert scene.client.pauses == [2.5]

    async def test_opens_again_when_the_server_is_busy(self, play):
        scene = await play(answer(503, retry_after="3"), streams(END))

        await scene.client.all("stream_execution", "e1")

        assert scene.client.pauses == [3.0]

    async def test_counts_only_breaks_without_an_event_in_between(self, play):
        broken = streams(RUNNING, then=cut)
        scene = await play(broken, broken, broken, broken, streams(END), max_retries=1)

        assert len(await scene.client.all("stream_execution", "e1")) == 5

    async def test_gives_up_when_nothing_comes(self, play):
        scene = await play(streams(then=cut), max_retries=2)

        with pytest.raises(ai_spine.NetworkError):
            await scene.client.all("stream_execution", "e1")
        assert len(scene.server.requests) == 3

    async def test_gives_up_when_it_breaks_too_often(self, play, monkeypatch):
        monkeypatch.setattr(_following, "RECONNECTS_MAX", 3)
        scene = await play(streams(RUNNING, then=cut))

        with pytest.raises(ai_spine.NetworkError):
            await scene.client.all("stream_execution", "e1")
        assert len(scene.server.requests) == 4

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (404, ai_spine.NotFoundError),
            (401, ai_spine.AuthenticationError),
            (500, ai_spine.APIError),
        ],
    )
    async def test_says_why_there_is_none(self, play, status, error):
        scene = await play(answer(status, {"message": "no"}), max_retries=0)

        with pytest.raises(error, match="no"):
            await scene.client.all("stream_execution", "e1")

    @pytest.mark.parametrize("said", [answer(200, {}), answer(204, b"")])
    async def test_says_when_the_answer_is_none(self, play, said):
        scene = await play(said)

        with pytest.raises(ai_spine.APIError, match="no stream of events"):
            await scene.client.all("stream_execution", "e1")

    async def test_refuses_an_event_that_is_no_json(self, play):
        scene = await play(streams(b"data: {\n\n"))

        with pytest.raises(ai_spine.APIError, match="no JSON"):
            await scene.client.all("stream_execution", "e1")

    async def test_refuses_an_event_without_an_end(self, play, monkeypatch):
        monkeypatch.setattr(_sse, "EVENT_MAX_BYTES", 1000)
        scene = await play(streams(b"data: " + b"x" * 2000, then=silence))

        with pytest.raises(ai_spine.APIError, match="larger"):
            await scene.client.all("stream_execution", "e1")

    async def test_ends_with_its_time(self, play):
        scene = await play(streams(RUNNING, then=silence))

        with pytest.raises(ai_spine.TimeoutError, match=r"e1 goes on after 0\.4 s") as raised:
            await scene.client.all("stream_execution", "e1", timeout=0.4)
        assert raised.value.execution_id == "e1"

    async def test_refuses_a_wrong_id_before_it_begins(self, play):
        scene = await play(streams(END))

        with pytest.raises(ai_spine.ValidationError):
            scene.client.client.stream_execution("../flows")
        with pytest.raises(ai_spine.ValidationError, match="last_event_id"):
            scene.client.client.stream_execution("e1", last_event_id="1\r\nx: y")

    async def test_leaves_no_connection_open_when_its_reader_leaves(self, kind):
        async with (
            raw_server(plays(streams(RUNNING, then=silence))) as server,
            caller(kind, f"http://127.0.0.1:{server.port}") as client,
        ):
            if client.is_sync:

                def look() -> None:
                    stream = client.client.stream_execution("e1")
                    next(stream)
                    stream.close()

                await asyncio.to_thread(look)
            else:
                stream = client.client.stream_execution("e1")
                await anext(stream)
                await stream.aclose()

            await until(lambda: server.open == 0)
