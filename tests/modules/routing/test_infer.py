"""``/infer``: the form between a prompt and OpenAI's, the agent behind it, and our own door."""

import asyncio
import json
from contextlib import asynccontextmanager, nullcontext

import msgspec
import pytest
from aiohttp import web
from litestar.exceptions import MethodNotAllowedException

from app.kernel.db import uuid7
from app.modules.auth.api import InvalidCredentials, Principal, ScopeMissing
from app.modules.routing.adapters.workers import open_worker
from app.modules.routing.controllers.infer import InferDoor, infer_path
from app.modules.routing.domain.answers import read_answer
from app.modules.routing.domain.faults import UpstreamNonsense, UpstreamUnreachable
from app.modules.routing.domain.infer.form import BadAsk, door_ask, infer_ask, prompt_of
from app.modules.routing.domain.infer.reply import Stamp, read_reply
from app.modules.routing.domain.infer.stream import EventsFromInfer
from app.modules.routing.domain.infer.text import TextFromChat, text_answer
from app.modules.routing.domain.unmappable import Unmappable
from app.modules.routing.domain.workers import WorkerTarget
from app.modules.routing.ports import Answer, AnswerStream, Ask, Deadlines
from tests.waiting import until

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
STAMP = Stamp("chatcmpl-1", "llama", 7)
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    ],
    "usage": USAGE,
}
JSON = "application/json"


def user(text) -> dict:
    return {"role": "user", "content": text}


def chat(**more) -> bytes:
    return json.dumps({"model": "llama", "messages": [user("hi")], **more}).encode()


def encoded(value) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def sse(*values) -> bytes:
    return b"".join(b"data: " + encoded(value) + b"\n\n" for value in values)


def events(raw: bytes) -> list:
    """The data of each event, decoded."""
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def spoken(raw: bytes) -> str:
    """The text of chat events."""
    chunks = [found for found in events(raw) if found != "[DONE]" and found.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


class TestPrompt:
    def test_of_one_message_is_its_text(self):
        assert prompt_of([user("hi")]) == "hi"

    def test_of_a_conversation_is_written_out(self):
        messages = [
            {"role": "system", "content": "Be brief."},
            user("How are you?"),
            {"role": "assistant", "content": "Well."},
            user([{"type": "text", "text": "And"}, {"type": "text", "text": "now?"}]),
        ]

        assert prompt_of(messages) == (
            "System: Be brief.\n\nUser: How are you?\n\nAssistant: Well.\n\nUser: And\nnow?"
            "\n\nAssistant:"
        )

    def test_of_a_lone_instruction_leaves_the_word_to_the_model(self):
        messages = [{"role": "developer", "content": "Greet."}]

        assert prompt_of(messages) == "System: Greet.\n\nAssistant:"


class TestInferAsk:
    def test_carries_what_the_form_has(self):
        body = chat(max_tokens=9, temperature=0.5, stream=True, user="anna")

        assert json.loads(infer_ask("chat/completions", body).body) == {
            "prompt": "hi",
            "model": "llama",
            "max_tokens": 9,
            "temperature": 0.5,
            "stream": True,
        }

    def test_leaves_to_the_agent_what_the_caller_does_not_say(self):
        found = json.loads(infer_ask("chat/completions", chat()).body)

        assert found == {"prompt": "hi", "model": "llama"}

    def test_takes_the_newer_name_of_the_limit(self):
        asked = infer_ask("chat/completions", chat(max_completion_tokens=5))

        assert asked.max_tokens == 5

    @pytest.mark.parametrize("prompt", ["once", ["once"]])
    def test_takes_a_completions_prompt_as_it_is(self, prompt):
        body = json.dumps({"model": "llama", "prompt": prompt, "echo": False}).encode()

        assert infer_ask("completions", body).prompt == "once"

    @pytest.mark.parametrize(
        "neutral",
        [
            {"n": 1},
            {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
            {"response_format": {"type": "text"}, "modalities": ["text"]},
            {"top_p": 1.0, "frequency_penalty": 0, "presence_penalty": 0.0},
            {"stop": None, "seed": None, "logit_bias": {}, "logprobs": False},
            {"user": "anna", "metadata": {"a": "b"}, "store": False},
            {"stream_options": {"include_usage": True}},
        ],
    )
    def test_overlooks_what_changes_nothing(self, neutral):
        assert infer_ask("chat/completions", chat(**neutral)).prompt == "hi"

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"tools": [{"type": "function"}]}, "tools"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"functions": [{"name": "f"}]}, "functions"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"n": 2}, "n"),
            ({"stop": ["\n"]}, "stop"),
            ({"seed": 1}, "seed"),
            ({"top_p": 0.5}, "top_p"),
            ({"logprobs": True}, "logprobs"),
            ({"modalities": ["text", "audio"]}, "modalities"),
            ({"reasoning_effort": "low"}, "reasoning_effort"),
            ({"unheard_of": 1}, "unheard_of"),
        ],
    )
    def test_names_a_member_that_it_cannot_carry(self, change, param):
        with pytest.raises(Unmappable, match=f"`{param}`") as caught:
            infer_ask("chat/completions", chat(**change))

        assert caught.value.extra["param"] == param

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            (user([{"type": "image_url", "image_url": {"url": "data:"}}]), "messages.1.content.0"),
            (user([{"type": "text"}]), "messages.1.content.0"),
            (user({"text": "hi"}), "messages.1.content"),
            ({"role": "tool", "content": "7", "tool_call_id": "a"}, "messages.1.tool_call_id"),
            ({"role": "tool", "content": "7"}, "messages.1.role"),
            ({"content": "7"}, "messages.1.role"),
            ({"role": ["user"], "content": "7"}, "messages.1.role"),
            ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "messages.1.tool_calls"),
            (user("hi") | {"name": "anna"}, "messages.1.name"),
        ],
    )
    def test_names_a_message_that_is_no_text(self, message, param):
        with pytest.raises(Unmappable) as caught:
            infer_ask("chat/completions", chat(messages=[user("hi"), message]))

        assert caught.value.extra["param"] == param

    def test_takes_a_message_back_as_clients_keep_it(self):
        kept = {"role": "assistant", "content": "Well.", "refusal": None, "annotations": []}

        asked = infer_ask("chat/completions", chat(messages=[user("hi"), kept, user("so?")]))

        assert asked.prompt == "User: hi\n\nAssistant: Well.\n\nUser: so?\n\nAssistant:"

    @pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], None, {"a": 1}])
    def test_takes_one_prompt_only(self, prompt):
        with pytest.raises(Unmappable, match="`prompt`"):
            infer_ask("completions", json.dumps({"model": "llama", "prompt": prompt}).encode())

    def test_has_no_embeddings(self):
        with pytest.raises(Unmappable, match="embeddings"):
            infer_ask("embeddings", b'{"model":"llama","input":"a"}')

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"[]",
            b'{"n":1e400}',
            b'{"messages":"hi"}',
            b'{"messages":["hi"]}',
            b'{"max_tokens":"9"}',
        ],
    )
    def test_refuses_what_is_no_request(self, body):
        with pytest.raises(BadAsk):
            infer_ask("chat/completions", body)


WHOLE = [
    ({"text": "hello"}, JSON),
    ({"response": "hello"}, JSON),
    ({"output": "hello"}, JSON),
    ({"output": ["hel", "lo"]}, JSON),
    ({"generated_text": "hello"}, JSON),
    ([{"generated_text": "hello"}], JSON),
    ({"content": "hello"}, JSON),
    ({"choices": [{"text": "hello"}]}, JSON),
    ({"choices": [{"message": {"content": "hello"}}]}, JSON),
    ({"choices": ["hello"]}, JSON),
    (CHAT, JSON),
    ("hello", JSON),
    (b"hello", "text/plain; charset=utf-8"),
    (b'{"text":"hello"}', "text/plain"),
    (b'{"text":"hel"}\n{"text":"lo"}\n', "application/x-ndjson"),
    (b'{"response":"hel","done":false}\r\n{"response":"lo","done":true}', JSON),
    (sse({"token": "hel"}, {"token": "lo"}, b"[DONE]"), "text/event-stream"),
    (b"data: hel\n\ndata: lo\n\n", "text/event-stream"),
]


class TestReadReply:
    @pytest.mark.parametrize(("told", "content_type"), WHOLE)
    def test_finds_the_text_in_every_form(self, told, content_type):
        assert read_reply(encoded(told), content_type).text == "hello"

    @pytest.mark.parametrize(
        "told",
        [
            {"text": "hello", "usage": USAGE},
            {"text": "hello", "usage": {"input_tokens": 3, "output_tokens": 2}},
        ],
    )
    def test_tells_usage_under_openais_names(self, told):
        assert read_reply(encoded(told), JSON).usage == USAGE

    @pytest.mark.parametrize(
        "usage", [None, 5, {}, {"prompt_tokens": 3}, {"prompt_tokens": "3", "completion_tokens": 2}]
    )
    def test_invents_no_usage(self, usage):
        assert read_reply(encoded({"text": "hello", "usage": usage}), JSON).usage is None

    @pytest.mark.parametrize(
        ("told", "reason"),
        [
            ({"text": "a"}, "stop"),
            ({"text": "a", "finish_reason": "length"}, "length"),
            ({"response": "a", "done": True, "done_reason": "length"}, "length"),
            ({"choices": [{"text": "a", "finish_reason": "length"}]}, "length"),
        ],
    )
    def test_tells_why_the_text_ends(self, told, reason):
        assert read_reply(encoded(told), JSON).reason == reason

    @pytest.mark.parametrize(
        ("told", "content_type"),
        [
            ({"status": "ok"}, JSON),
            ({"text": 7}, JSON),
            ([], JSON),
            (7, JSON),
            (b'{"text":"hel', JSON),
            (b"", JSON),
            (b"", "text/plain"),
            (b"<html>Welcome</html>", "text/html"),
        ],
    )
    def test_takes_nothing_else_for_an_answer(self, told, content_type):
        with pytest.raises(UpstreamNonsense):
            read_reply(encoded(told), content_type)


def translated(*values, surface="chat/completions", wants_usage=False) -> bytes:
    stream = EventsFromInfer(surface, STAMP, wants_usage=wants_usage)
    return b"".join(stream.feed(sse(value)) for value in values) + stream.finish()


class TestEventsFromInfer:
    def test_writes_tokens_as_chat_events(self):
        raw = translated({"token": "hel"}, {"token": "lo"}, b"[DONE]")

        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7}
        head |= {"model": "llama"}
        choice = {"index": 0, "logprobs": None, "finish_reason": None}
        assert events(raw) == [
            head | {"choices": [choice | {"delta": {"role": "assistant", "content": "hel"}}]},
            head | {"choices": [choice | {"delta": {"content": "lo"}}]},
            head | {"choices": [choice | {"delta": {}, "finish_reason": "stop"}]},
            "[DONE]",
        ]

    def test_writes_tokens_as_completions_events(self):
        raw = translated({"text": "hi"}, surface="completions")

        first, last, done = events(raw)
        assert (first["object"], first["choices"][0]["text"]) == ("text_completion", "hi")
        assert last["choices"][0]["finish_reason"] == "stop"
        assert done == "[DONE]"

    @pytest.mark.parametrize(
        "values",
        [
            [{"token": "hel"}, {"token": "lo"}],
            [{"token": {"text": "hel"}}, {"token": {"text": "lo"}, "generated_text": "hello"}],
            [{"token": {"text": "hello"}}, {"token": {"text": "</s>", "special": True}}],
            [{"text": "hel"}, {"text": "lo"}, b"[DONE]"],
            [{"response": "hel", "done": False}, {"response": "lo", "done": True}],
            [{"content": "hel", "stop": False}, {"content": "lo", "stop": True}],
            [{"choices": [{"text": "hel"}]}, {"choices": [{"delta": {"content": "lo"}}]}],
            [b"hel", b"lo"],
            ["hel", "lo"],
            [{"status": "thinking"}, {"token": "hello"}],
        ],
    )
    def test_finds_the_text_in_every_form(self, values):
        raw = translated(*values)

        assert spoken(raw) == "hello"
        assert events(raw)[-1] == "[DONE]"

    def test_passes_openais_events_on_as_they_are(self):
        chunk = (
            b'{"id":"x", "object":"chat.completion.chunk","choices":[{"delta":{"content":"a"}}]}'
        )

        assert translated(chunk, b"[DONE]") == sse(chunk, b"[DONE]")

    def test_does_not_complete_a_stream_of_openais_that_broke_off(self):
        chunk = {"id": "x", "object": "chat.completion.chunk", "choices": [{"delta": {}}]}

        assert b"[DONE]" not in translated(chunk)

    def test_completes_a_stream_of_openais_that_only_lacks_its_mark(self):
        choice = {"delta": {}, "finish_reason": "stop"}
        chunk = {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}

        assert events(translated(chunk)) == [chunk, "[DONE]"]

    def test_does_not_complete_a_stream_that_said_nothing(self):
        assert translated({"status": "thinking"}) == b""

    def test_tells_the_usage_to_whoever_asks(self):
        values = [{"token": "a"}, {"token": "", "finish_reason": "length", "usage": USAGE}]

        asked = events(translated(*values, wants_usage=True))
        unasked = events(translated(*values))

        assert asked[-3]["choices"][0]["finish_reason"] == "length"
        assert (asked[-2]["choices"], asked[-2]["usage"]) == ([], USAGE)
        assert not any("usage" in found for found in unasked[:-1])

    def test_ends_with_an_error_that_the_agent_tells(self):
        raw = translated({"token": "a"}, {"error": "out of memory"}, {"token": "b"})

        error = {"message": "out of memory", "type": "server_error", "param": None, "code": None}
        assert events(raw)[-1] == {"error": error}
        assert spoken(raw) == "a"

    def test_understands_events_wherever_their_bytes_are_cut(self):
        raw = sse({"token": "h\u00e9"}, {"token": "llo"}, b"[DONE]")

        for cut in range(1, len(raw)):
            stream = EventsFromInfer("chat/completions", STAMP, wants_usage=False)
            found = stream.feed(raw[:cut]) + stream.feed(raw[cut:]) + stream.finish()
            assert spoken(found) == "h\u00e9llo"


class Agent:
    """A server with an ``/infer`` that answers what it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b'{"text":"hello"}'
        self.content_type = JSON
        self.asked: list[dict] = []
        self.authorizations: list[str] = []
        self.hold: asyncio.Event | None = None
        self.dies = False
        self.cut = 0
        self.url = ""

    async def infer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.authorizations.append(request.headers.get("authorization", ""))
        if not self.content_type.startswith("text/event-stream"):
            headers = {"content-type": self.content_type}
            return web.Response(body=self.body, status=self.status, headers=headers)
        response = web.StreamResponse(headers={"content-type": self.content_type})
        await response.prepare(request)
        await response.write(self.body)
        if self.dies:
            request.transport.abort()
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        return response


@asynccontextmanager
async def running(agent: Agent):
    app = web.Application()
    app.router.add_post("/infer", agent.infer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}/infer"
    try:
        yield agent
    finally:
        await runner.cleanup()


@pytest.fixture
async def agent():
    async with running(Agent()) as found:
        yield found


@pytest.fixture
async def upstream(agent):
    target = WorkerTarget("worker/mac", agent.url, "infer", may_be_private=True)
    found = open_worker(target, answer_limit_bytes=1_000_000, max_connections=4)
    yield found
    await found.close()


def ask(body: bytes | None = None, key: str = "", surface="chat/completions") -> Ask:
    return Ask(surface, "llama", body or chat(), key, deadlines=Deadlines(2.0, 2.0, 2.0))


async def read(found: AnswerStream) -> bytes:
    return b"".join([chunk async for chunk in found.chunks])


class TestPost:
    @pytest.mark.parametrize(("told", "content_type"), WHOLE)
    async def test_answers_with_a_chat_completion(self, agent, upstream, told, content_type):
        agent.body, agent.content_type = encoded(told), content_type

        answer = await upstream.post(ask())

        found = json.loads(answer.body)
        assert (answer.status, answer.content_type.partition(";")[0]) == (200, JSON)
        assert found["object"] == "chat.completion"
        assert found["choices"][0]["message"]["content"] == "hello"

    async def test_writes_the_answer_as_openai_does(self, upstream):
        found = json.loads((await upstream.post(ask())).body)

        message = {"role": "assistant", "content": "hello", "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        assert found.pop("id").startswith("chatcmpl-")
        assert found.pop("created") > 0
        assert found == {
            "object": "chat.completion",
            "model": "llama",
            "choices": [choice],
            "usage": None,
        }

    async def test_answers_completions_likewise(self, upstream):
        body = b'{"model":"llama","prompt":"once"}'

        found = json.loads((await upstream.post(ask(body, surface="completions"))).body)

        assert found["object"] == "text_completion"
        assert found["choices"][0]["text"] == "hello"

    async def test_passes_an_answer_of_openais_on_as_it_is(self, agent, upstream):
        agent.body = b'{ "id":"c", "choices":[{"message":{"content":"hello"}}], "odd":1.10 }'

        assert (await upstream.post(ask())).body == agent.body

    async def test_sends_the_form_and_the_workers_key(self, agent, upstream):
        await upstream.post(ask(key="isk_of_the_agent"))

        assert agent.asked == [{"prompt": "hi", "model": "llama"}]
        assert agent.authorizations == ["Bearer isk_of_the_agent"]

    async def test_sends_nothing_that_it_cannot_carry(self, agent, upstream):
        with pytest.raises(Unmappable):
            await upstream.post(ask(chat(n=2)))

        assert agent.asked == []

    async def test_leaves_usage_unknown_that_is_not_told(self, upstream):
        part = read_answer((await upstream.post(ask())).body)

        assert part.tokens is None

    @pytest.mark.parametrize(
        ("told", "message"),
        [
            ({"detail": "model not loaded"}, "model not loaded"),
            ({"detail": [{"loc": ["body"]}]}, '[{"loc":["body"]}]'),
            ({"error": "busy"}, "busy"),
            ({"error": {"message": "busy", "code": "queue_full"}}, "busy"),
            ({"message": "busy"}, "busy"),
        ],
    )
    async def test_explains_an_error_as_openai_does(self, agent, upstream, told, message):
        agent.status, agent.body = 422, encoded(told)

        answer = await upstream.post(ask())

        assert answer.status == 422
        assert json.loads(answer.body)["error"]["message"] == message

    async def test_leaves_an_error_that_says_nothing_alone(self, agent, upstream):
        agent.status, agent.body, agent.content_type = 500, b"oh no", "text/plain"

        answer = await upstream.post(ask())

        assert (answer.status, answer.body) == (500, b"oh no")

    async def test_takes_an_error_with_status_200_for_an_error(self, agent, upstream):
        agent.body = b'{"error":"out of memory"}'

        answer = await upstream.post(ask())

        assert answer.status == 502
        assert json.loads(answer.body)["error"]["message"] == "out of memory"

    async def test_takes_a_page_for_nonsense(self, agent, upstream):
        agent.body, agent.content_type = b"<html>", "text/html"

        with pytest.raises(UpstreamNonsense):
            await upstream.post(ask())


class TestStream:
    @pytest.mark.parametrize(("told", "content_type"), WHOLE)
    async def test_streams_whatever_the_agent_answers(self, agent, upstream, told, content_type):
        agent.body, agent.content_type = encoded(told), content_type

        found = await upstream.stream(ask(chat(stream=True)))

        raw = await read(found)
        assert found.content_type == "text/event-stream"
        assert spoken(raw) == "hello"
        assert events(raw)[-1] == "[DONE]"
        assert agent.asked[0]["stream"] is True

    async def test_hands_events_on_while_others_are_to_come(self, agent, upstream):
        agent.body, agent.content_type = sse({"token": "hel"}), "text/event-stream"
        agent.hold = asyncio.Event()

        found = await upstream.stream(ask(chat(stream=True)))

        assert spoken(await anext(found.chunks)) == "hel"
        agent.hold.set()
        assert events(await read(found))[-1] == "[DONE]"

    async def test_cuts_the_agent_off_when_it_is_closed(self, agent, upstream):
        agent.body, agent.content_type = sse({"token": "hel"}), "text/event-stream"
        agent.hold = asyncio.Event()
        found = await upstream.stream(ask(chat(stream=True)))
        await anext(found.chunks)

        await found.close()

        await until(lambda: agent.cut == 1)

    async def test_breaks_off_when_the_agent_does(self, agent, upstream):
        agent.body, agent.content_type = sse({"token": "hel"}), "text/event-stream"
        agent.dies = True

        found = await upstream.stream(ask(chat(stream=True)))

        with pytest.raises(UpstreamUnreachable):
            await read(found)

    async def test_answers_an_error_whole(self, agent, upstream):
        agent.status, agent.body = 503, b'{"detail":"busy"}'

        found = await upstream.stream(ask(chat(stream=True)))

        assert isinstance(found, Answer)
        assert json.loads(found.body)["error"]["message"] == "busy"

    async def test_tells_the_usage_that_the_agent_tells(self, agent, upstream):
        agent.body = encoded({"text": "hello", "usage": USAGE})
        body = chat(stream=True, stream_options={"include_usage": True})

        raw = await read(await upstream.stream(ask(body)))

        assert events(raw)[-2]["usage"] == USAGE

    async def test_takes_a_page_for_nonsense(self, agent, upstream):
        agent.body, agent.content_type = b"<html>", "text/html"

        with pytest.raises(UpstreamNonsense):
            await upstream.stream(ask(chat(stream=True)))


class TestModels:
    async def test_are_not_asked_for(self, upstream, agent):
        assert await upstream.models() == []
        assert agent.asked == []


class TestDoorAsk:
    def test_makes_a_chat_of_a_prompt(self):
        asked = door_ask(b'{"prompt":"hi"}', lambda: "mlx/tiny")

        assert (asked.is_text, asked.is_streamed) == (True, False)
        assert json.loads(asked.chat_body) == {
            "model": "mlx/tiny",
            "messages": [user("hi")],
            "max_tokens": 512,
            "temperature": 0.7,
        }

    def test_asks_a_stream_for_its_usage(self):
        body = b'{"prompt":"hi","max_tokens":9,"temperature":0,"stream":true,"model":"llama"}'

        asked = door_ask(body, lambda: "mlx/tiny")

        assert asked.is_streamed
        assert json.loads(asked.chat_body) == {
            "model": "llama",
            "messages": [user("hi")],
            "max_tokens": 9,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_takes_a_chat_as_it_is(self):
        asked = door_ask(chat(stream=True, odd=1), lambda: "mlx/tiny")

        assert (asked.is_text, asked.is_streamed) == (False, True)
        assert asked.chat_body == chat(stream=True, odd=1)

    def test_gives_a_chat_without_a_model_its_own(self):
        asked = door_ask(b'{"messages":[]}', lambda: "mlx/tiny")

        assert json.loads(asked.chat_body) == {"messages": [], "model": "mlx/tiny"}

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"\xff",
            b"{}",
            b'{"prompt":7}',
            b'{"prompt":"hi","max_tokens":0}',
            b'{"prompt":"hi","temperature":-1}',
            b'{"prompt":"hi","unknown":1}',
            b'{"messages":"hi"}',
            b"[" * 10_000,
        ],
    )
    def test_refuses_what_is_neither(self, body):
        with pytest.raises(BadAsk, match="Send a `prompt`"):
            door_ask(body, lambda: "mlx/tiny")


class TestTextAnswer:
    def test_has_the_text_its_usage_and_its_model(self):
        assert json.loads(text_answer(encoded(CHAT))) == {
            "text": "hello",
            "finish_reason": "stop",
            "model": "m",
            "usage": USAGE,
        }

    def test_leaves_unknown_usage_null(self):
        answer = {name: value for name, value in CHAT.items() if name != "usage"}

        assert json.loads(text_answer(encoded(answer)))["usage"] is None

    @pytest.mark.parametrize("body", [b"oh no", b"[]", b'{"error":{"message":"x"}}'])
    def test_is_made_of_nothing_else(self, body):
        with pytest.raises(UpstreamNonsense):
            text_answer(body)


def chunk(**more) -> dict:
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [], **more}


class TestTextFromChat:
    def test_streams_text_and_ends_with_the_rest(self):
        raw = sse(
            chunk(choices=[{"delta": {"role": "assistant", "content": "hel"}}]),
            chunk(choices=[{"delta": {"content": "lo"}}]),
            chunk(choices=[{"delta": {}, "finish_reason": "length"}]),
            chunk(usage=USAGE),
            b"[DONE]",
        )

        assert events(TextFromChat().feed(raw)) == [
            {"text": "hel"},
            {"text": "lo"},
            {"text": "", "finish_reason": "length", "model": "m", "usage": USAGE},
            "[DONE]",
        ]

    def test_is_what_our_own_router_understands(self):
        text = TextFromChat().feed(sse(chunk(choices=[{"delta": {"content": "hello"}}]), b"[DONE]"))

        router = EventsFromInfer("chat/completions", STAMP, wants_usage=False)

        assert spoken(router.feed(text) + router.finish()) == "hello"

    def test_hands_an_error_on_and_ends_there(self):
        error = {"error": {"message": "broken"}}

        raw = TextFromChat().feed(sse(chunk(), error, b"[DONE]"))

        assert events(raw) == [error]

    def test_passes_signs_of_life_over(self):
        assert TextFromChat().feed(b": keep-alive\n\n") == b""


class FakeAuthenticator:
    """Knows one token."""

    def __init__(self, *scopes: str) -> None:
        self.principal = Principal(uuid7(), "key", uuid7(), "owner", frozenset(scopes))

    def recall(self, token: bytes) -> Principal | None:
        return None

    async def authenticate(self, token: bytes) -> Principal:
        if token != b"isk_known":
            raise InvalidCredentials("wrong")
        return self.principal


class Client:
    """Calls the door as a server does, and keeps what it answers."""

    def __init__(self, found: Answer | AnswerStream, *scopes: str) -> None:
        self.found = found
        self.calls: list[tuple[Principal, dict]] = []
        self.sent: list[dict] = []
        self.authenticator = FakeAuthenticator(*(scopes or ("inference",)))
        self.door = InferDoor(
            self.authenticator, self._complete, lambda: "mlx/tiny", lambda _: nullcontext()
        )

    async def _complete(self, principal: Principal, body: bytes) -> Answer | AnswerStream:
        self.calls.append((principal, json.loads(body)))
        return self.found

    async def post(self, *parts: bytes, method: str = "POST", token: str = "isk_known") -> None:
        scope = {"method": method, "headers": [(b"authorization", f"Bearer {token}".encode())]}
        inbox = [{"type": "http.request", "body": p, "more_body": True} for p in parts[:-1]]
        inbox.append({"type": "http.request", "body": parts[-1], "more_body": False})

        async def receive() -> dict:
            return inbox.pop(0)

        async def send(message: dict) -> None:
            self.sent.append(message)

        await self.door.handle(scope, receive, send)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def content_type(self) -> bytes:
        return dict(self.sent[0]["headers"])[b"content-type"]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


class OpenStream:
    """An answer that is still coming."""

    def __init__(self, *chunks: bytes) -> None:
        self.closed = 0
        self.answer = AnswerStream(200, "text/event-stream", self._chunks(chunks), self._close)

    async def _chunks(self, chunks):
        for found in chunks:
            yield found

    async def _close(self) -> None:
        self.closed += 1


class TestDoor:
    async def test_answers_a_prompt_with_text(self):
        client = Client(Answer(200, JSON, encoded(CHAT)))

        await client.post(b'{"prompt":', b'"hi"}')

        ((principal, body),) = client.calls
        assert principal is client.authenticator.principal
        assert (body["model"], body["messages"]) == ("mlx/tiny", [user("hi")])
        assert (client.status, client.content_type) == (200, b"application/json")
        assert json.loads(client.body)["text"] == "hello"

    async def test_answers_a_chat_with_a_chat(self):
        client = Client(Answer(200, JSON, encoded(CHAT)))

        await client.post(chat())

        assert client.body == encoded(CHAT)

    async def test_streams_text_for_a_prompt(self):
        stream = OpenStream(sse(chunk(choices=[{"delta": {"content": "hi"}}])), sse(b"[DONE]"))
        client = Client(stream.answer)

        await client.post(b'{"prompt":"hi","stream":true}')

        assert client.content_type.startswith(b"text/event-stream")
        assert [found if found == "[DONE]" else found["text"] for found in events(client.body)] == [
            "hi",
            "",
            "[DONE]",
        ]
        assert stream.closed == 1

    async def test_streams_a_chat_as_it_is(self):
        raw = sse(chunk(), b"[DONE]")
        client = Client(OpenStream(raw).answer)

        await client.post(chat(stream=True))

        assert client.body == raw

    async def test_hands_an_error_on(self):
        error = encoded({"error": {"message": "busy"}})
        client = Client(Answer(429, JSON, error, "7"))

        await client.post(b'{"prompt":"hi"}')

        assert (client.status, client.body) == (429, error)
        assert (b"retry-after", b"7") in client.sent[0]["headers"]

    async def test_closes_a_stream_whose_client_has_gone(self):
        stream = OpenStream(sse(chunk()))
        client = Client(stream.answer)

        async def gone(message: dict) -> None:
            if message["type"] == "http.response.body":
                raise asyncio.CancelledError

        scope = {"method": "POST", "headers": [(b"authorization", b"Bearer isk_known")]}

        async def receive() -> dict:
            return {"type": "http.request", "body": chat(stream=True)}

        with pytest.raises(asyncio.CancelledError):
            await client.door.handle(scope, receive, gone)

        assert stream.closed == 1

    async def test_is_closed_to_strangers(self):
        client = Client(Answer(200, JSON, encoded(CHAT)))

        with pytest.raises(InvalidCredentials):
            await client.post(b'{"prompt":"hi"}', token="isk_unknown")

        assert client.calls == []

    async def test_needs_the_scope_inference(self):
        client = Client(Answer(200, JSON, encoded(CHAT)), "read")

        with pytest.raises(ScopeMissing):
            await client.post(b'{"prompt":"hi"}')

    async def test_takes_posts_only(self):
        client = Client(Answer(200, JSON, encoded(CHAT)))

        with pytest.raises(MethodNotAllowedException):
            await client.post(b"", method="GET")

    def test_is_in_the_document(self):
        operation = infer_path()["/infer"]["post"]

        assert operation["security"] == [{"bearer": []}]
        assert msgspec.json.encode(operation)
