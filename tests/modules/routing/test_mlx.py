"""Local inference: a real model in a real child process, asked by OpenAI's own client."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from logging.handlers import BufferingHandler
from pathlib import Path

import aiohttp
import openai
import psutil
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from app.kernel.errors import AppError, Unavailable
from app.modules.routing.adapters.aiohttp import AiohttpClient
from app.modules.routing.adapters.mlx import (
    CHILD,
    MlxChild,
    MlxDown,
    MlxMissing,
    MlxOptions,
    MlxUpstream,
)
from app.modules.routing.ports import Answer, Ask
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PARENT = """
import asyncio, sys
from app.modules.routing.adapters.mlx import MlxChild, MlxOptions

async def main():
    child = MlxChild(MlxOptions(model=sys.argv[1]))
    await child.start()
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
WITHIN_S = 60.0
MODEL = "tiny"
BACKOFF_S = 3.0
LOGGED_LIMIT = 10_000
PING = [{"role": "user", "content": "ping"}]
ADD = [{"role": "user", "content": "add_numbers 19 23"}]
PING_PROMPT = "<|im_start|>user\nping<|im_end|>\n<|im_start|>assistant\n"
TOOL = {
    "type": "function",
    "function": {
        "name": "add_numbers",
        "description": "Returns the sum of two integers.",
        "parameters": {
            "type": "object",
            "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}},
        },
    },
}
END_TOKEN = 3
# How much of a text is read at a time.
PIECE_TOKENS = 1_024
# Without its end token the model talks until its context is full, which takes minutes.
ENDLESS = {"model": MODEL, "prompt": "ping", "logit_bias": {str(END_TOKEN): -100}}
NARROW = {"parallel": 1, "queue_limit": 1}


def open_client(url: str) -> AiohttpClient:
    return AiohttpClient("mlx", url, answer_limit_bytes=10_000_000, max_connections=16)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Path:
    return tiny_model


@asynccontextmanager
async def running(model: Path, **options) -> AsyncIterator[MlxChild]:
    options = {"ping_every_s": 0.1, "ping_timeout_s": 5.0, "backoff_s": 0.05} | options
    child = MlxChild(MlxOptions(model=str(model), **options))
    await child.start()
    try:
        yield child
    finally:
        await child.stop()


def client(child: MlxChild) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=child.base_url, api_key="none", max_retries=0, timeout=WITHIN_S
    )


@pytest.fixture(scope="module")
def logged() -> Iterator[list[logging.LogRecord]]:
    """What has been logged since before the child began."""
    house, handler = logging.getLogger("insula"), BufferingHandler(LOGGED_LIMIT)
    former = house.level
    house.setLevel(logging.INFO)
    house.addHandler(handler)
    yield handler.buffer
    house.removeHandler(handler)
    house.setLevel(former)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def child(model: Path, logged: list[logging.LogRecord]) -> AsyncIterator[MlxChild]:
    async with running(model) as child:
        yield child


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ai(child: MlxChild) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client(child) as ai:
        yield ai


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow_child(model: Path) -> AsyncIterator[MlxChild]:
    async with running(model, **NARROW) as child:
        yield child


@pytest_asyncio.fixture(loop_scope="module")
async def narrow(narrow_child: MlxChild) -> AsyncIterator[MlxChild]:
    """A child that does one thing at a time and lets one wait; nobody else asks it anything."""
    yield narrow_child
    await until(lambda: is_idle(narrow_child))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mortal(model: Path) -> AsyncIterator[MlxChild]:
    """A child for those who end it, and wait for the next one."""
    waits = {"backoff_s": BACKOFF_S, "backoff_limit_s": BACKOFF_S, "ping_timeout_s": 0.5}
    async with running(model, **waits) as child:
        yield child


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refused(mortal: MlxChild) -> Unavailable:
    """What the caller of a killed child is told, which is there again by now."""
    former_pid = mortal.pid
    os.kill(former_pid, signal.SIGKILL)
    refused = await until(lambda: refusal(mortal), within_s=WITHIN_S)
    await restarted(mortal, former_pid)
    return refused


async def health(child: MlxChild) -> dict[str, object]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(child.base_url.replace("/v1", "/health")) as response,
    ):
        return await response.json()


async def restarted(child: MlxChild, former_pid: int) -> None:
    def has_changed() -> bool:
        try:
            return child.pid != former_pid
        except Unavailable:
            return False

    await until(has_changed, within_s=WITHIN_S)


async def says_ping(child: MlxChild) -> str | None:
    async with client(child) as ai:
        answer = await ai.chat.completions.create(model=child.model, messages=PING)
    return answer.choices[0].message.content


class TestProgram:
    async def test_loads_neither_the_framework_nor_the_database(self):
        ask = f"import sys, {CHILD}; print({{name.split('.')[0] for name in sys.modules}})"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ask), stdout=asyncio.subprocess.PIPE
        )
        loaded, _ = await process.communicate()

        assert b"'mlx_lm'" in loaded
        assert b"'litestar'" not in loaded
        assert b"'sqlalchemy'" not in loaded


class TestModels:
    async def test_lists_the_model_by_the_name_of_its_folder(self, child, ai):
        names = [card.id async for card in ai.models.list()]

        assert names == [MODEL] == [child.model]


class TestChat:
    async def test_answers_and_counts_exactly(self, ai, model):
        answer = await ai.chat.completions.create(model=MODEL, messages=PING)

        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        said = answer.choices[0]
        assert (said.message.content, said.finish_reason) == ("pong zebra", "stop")
        assert answer.usage.prompt_tokens == len(tokenizer.encode(PING_PROMPT).ids)
        assert answer.usage.completion_tokens == len(tokenizer.encode("pong zebra").ids) + 1
        assert answer.usage.total_tokens == (
            answer.usage.prompt_tokens + answer.usage.completion_tokens
        )

    async def test_streams_pieces_and_the_usage(self, ai):
        whole = await ai.chat.completions.create(model=MODEL, messages=PING)
        stream = await ai.chat.completions.create(
            model=MODEL, messages=PING, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

        *spoken, last = chunks
        assert [chunk.choices[0].delta.content for chunk in spoken] == ["", "pong", " zebra", None]
        assert spoken[0].choices[0].delta.role == "assistant"
        assert spoken[-1].choices[0].finish_reason == "stop"
        assert (last.choices, last.usage) == ([], whole.usage)
        assert len({chunk.id for chunk in chunks}) == 1

    async def test_reads_parts_and_the_developer_s_word(self, ai):
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "ping"}]},
        ]

        answer = await ai.chat.completions.create(model=MODEL, messages=messages)

        assert answer.choices[0].message.content == "pong zebra"

    async def test_answers_several_at_once(self, ai):
        answers = await asyncio.gather(
            *(ai.chat.completions.create(model=MODEL, messages=PING) for _ in range(12))
        )

        assert {answer.choices[0].message.content for answer in answers} == {"pong zebra"}

    async def test_stops_before_a_text_that_two_tokens_make(self, ai):
        answer = await ai.chat.completions.create(model=MODEL, messages=PING, stop=["ng ze"])

        said = answer.choices[0]
        assert (said.message.content, said.finish_reason) == ("po", "stop")

    async def test_stops_streaming_before_it_too(self, ai):
        stream = await ai.chat.completions.create(
            model=MODEL, messages=PING, stop="ng ze", stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]

        assert "".join(pieces) == "po"

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    async def test_keeps_to_the_most_tokens(self, ai, name):
        answer = await ai.chat.completions.create(model=MODEL, messages=PING, **{name: 1})

        said = answer.choices[0]
        assert (said.message.content, said.finish_reason) == ("pong", "length")
        assert answer.usage.completion_tokens == 1


class TestToolCall:
    async def test_calls_and_uses_the_result(self, ai):
        asked = await ai.chat.completions.create(model=MODEL, messages=ADD, tools=[TOOL])
        (call,) = asked.choices[0].message.tool_calls
        called = asked.choices[0].message.model_dump(exclude_none=True)
        result = {"role": "tool", "tool_call_id": call.id, "content": "42"}
        answer = await ai.chat.completions.create(
            model=MODEL, messages=[*ADD, called, result], tools=[TOOL]
        )

        assert asked.choices[0].finish_reason == "tool_calls"
        assert asked.choices[0].message.content is None
        assert call.function.name == "add_numbers"
        assert json.loads(call.function.arguments) == {"a": 19, "b": 23}
        assert answer.choices[0].message.content == "the sum is 42"

    async def test_streams_the_call(self, ai):
        stream = await ai.chat.completions.create(
            model=MODEL, messages=ADD, tools=[TOOL], stream=True
        )
        choices = [chunk.choices[0] async for chunk in stream]

        calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
        assert [(call.index, call.function.name) for call in calls] == [(0, "add_numbers")]
        assert json.loads(calls[0].function.arguments) == {"a": 19, "b": 23}
        assert not any(choice.delta.content for choice in choices)
        assert choices[-1].finish_reason == "tool_calls"

    @pytest.mark.parametrize(
        "choice", ["required", {"type": "function", "function": {"name": "add_numbers"}}]
    )
    async def test_calls_when_it_must(self, ai, choice):
        answer = await ai.chat.completions.create(
            model=MODEL, messages=ADD, tools=[TOOL], tool_choice=choice
        )

        (call,) = answer.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"a": 19, "b": 23}

    async def test_gives_what_looks_like_a_call_as_text_when_no_tool_was_offered(self, ai):
        prompt = PING_PROMPT.replace("ping", ADD[0]["content"])

        answer = await ai.completions.create(model=MODEL, prompt=prompt)

        assert answer.choices[0].text == (
            '<tool_call>{"name": "add_numbers", "arguments": {"a": 19, "b": 23}}</tool_call>'
        )


class TestCompletion:
    async def test_continues_a_text_or_its_tokens(self, ai, model):
        tokens = Tokenizer.from_file(str(model / "tokenizer.json")).encode(PING_PROMPT).ids

        of_text = await ai.completions.create(model=MODEL, prompt=PING_PROMPT)
        of_tokens = await ai.completions.create(model=MODEL, prompt=tokens)

        assert of_text.choices[0].text == of_tokens.choices[0].text == "pong zebra"
        assert of_text.usage == of_tokens.usage

    async def test_streams(self, ai):
        stream = await ai.completions.create(model=MODEL, prompt=PING_PROMPT, stream=True)
        choices = [chunk.choices[0] async for chunk in stream]

        assert "".join(choice.text for choice in choices) == "pong zebra"
        assert choices[-1].finish_reason == "stop"

    async def test_draws_the_same_again_with_the_same_seed(self, ai):
        async def draw(seed: int) -> str:
            answer = await ai.completions.create(
                **ENDLESS, max_tokens=40, temperature=2, top_p=0.99, seed=seed
            )
            return answer.choices[0].text

        first, again, other = await asyncio.gather(draw(1), draw(1), draw(2))

        assert first == again
        assert first != other


class TestEmbeddings:
    async def test_are_the_same_unit_vectors_in_both_encodings(self, ai):
        texts = ["the lazy dog", "ping"]

        plain = await ai.embeddings.create(model=MODEL, input=texts, encoding_format="float")
        packed = await ai.embeddings.create(model=MODEL, input=texts)

        vectors = [entry.embedding for entry in plain.data]
        assert vectors == [entry.embedding for entry in packed.data]
        assert [sum(x * x for x in vector) for vector in vectors] == pytest.approx([1, 1], abs=1e-5)
        assert vectors[0] != vectors[1]

    async def test_are_those_of_the_text_when_tokens_are_given(self, ai, model):
        tokens = Tokenizer.from_file(str(model / "tokenizer.json")).encode("the lazy dog").ids

        of_text = await ai.embeddings.create(model=MODEL, input="the lazy dog")
        of_tokens = await ai.embeddings.create(model=MODEL, input=[tokens])

        assert of_text.data[0].embedding == of_tokens.data[0].embedding
        assert of_text.usage.prompt_tokens == len(tokens)

    async def test_of_a_long_text_read_in_pieces_is_close_to_that_of_its_half(self, ai):
        texts = ["the lazy dog, " * count for count in (150, 300)]

        half = await ai.embeddings.create(model=MODEL, input=texts[0])
        whole = await ai.embeddings.create(model=MODEL, input=texts[1])

        assert half.usage.prompt_tokens < PIECE_TOKENS < whole.usage.prompt_tokens
        pairs = zip(half.data[0].embedding, whole.data[0].embedding, strict=True)
        assert sum(a * b for a, b in pairs) > 0.99


def chat(**more: object) -> str:
    return json.dumps({"model": MODEL, "messages": PING, **more})


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "body", "status", "param"),
        [
            ("chat/completions", "{", 400, None),
            ("chat/completions", "[]", 400, None),
            ("chat/completions", chat(messages=[]), 400, "messages"),
            ("chat/completions", chat(messages="ping"), 400, "messages"),
            ("chat/completions", chat(model="other"), 404, "model"),
            ("chat/completions", chat(max_tokens=0), 400, "max_tokens"),
            ("chat/completions", chat(max_tokens=10**6), 400, "max_tokens"),
            ("chat/completions", chat(temperature=-1), 400, "temperature"),
            ("chat/completions", chat(top_p=2), 400, "top_p"),
            ("chat/completions", chat(n=2), 400, "n"),
            ("chat/completions", chat(logit_bias={"99999": 1}), 400, "logit_bias"),
            ("chat/completions", chat(stop=["x"] * 17), 400, "stop"),
            ("chat/completions", chat(tool_choice="required"), 400, "tool_choice"),
            ("chat/completions", chat(response_format={"type": "json_object"}), 400,
             "response_format"),
            ("chat/completions", chat(messages=[{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "http://x"}}]}]), 400, "messages"),
            ("completions", json.dumps({"model": MODEL, "prompt": ""}), 400, "prompt"),
            ("completions", json.dumps({"model": MODEL, "prompt": [99999]}), 400, "prompt"),
            ("completions", json.dumps({"model": MODEL, "prompt": ["a", "b"]}), 400, "prompt"),
            ("completions", json.dumps({"model": MODEL, "prompt": "a" * 70_000}), 400, "prompt"),
            ("embeddings", json.dumps({"model": MODEL, "input": []}), 400, "input"),
            ("embeddings", json.dumps({"model": MODEL, "input": ["a", 1]}), 400, "input"),
            ("nothing", "{}", 404, None),
            ("models", "{}", 405, None),
        ],
    )  # fmt: skip
    async def test_say_what_is_wrong(self, child, path, body, status, param):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{child.base_url}/{path}", data=body) as response,
        ):
            answer = await response.json()

        assert response.status == status
        assert answer["error"]["type"] == "invalid_request_error"
        assert answer["error"]["message"]
        assert answer["error"]["param"] == param

    async def test_come_at_once_when_too_many_wait(self, narrow):
        async with client(narrow) as ai:
            first = await ai.completions.create(**ENDLESS, stream=True)
            await anext(aiter(first))
            second = asyncio.create_task(ai.completions.create(**ENDLESS))
            await until(lambda: is_waiting(narrow))
            with pytest.raises(openai.InternalServerError) as refused:
                await ai.completions.create(**ENDLESS)
            second.cancel()
            await first.close()

        assert refused.value.status_code == 503
        assert refused.value.body["code"] == "queue_full"
        assert int(refused.value.response.headers["retry-after"]) >= 1


async def is_waiting(child: MlxChild) -> bool:
    return (await health(child))["waiting"] == 1


class TestDisconnect:
    async def test_in_the_middle_of_a_stream_frees_the_engine(self, narrow):
        async with client(narrow) as ai:
            stream = await ai.completions.create(**ENDLESS, stream=True)
            await anext(aiter(stream))
            await stream.close()

        assert await says_ping(narrow) == "pong zebra"

    async def test_before_a_whole_answer_frees_the_engine(self, narrow):
        async with client(narrow) as ai:
            asking = asyncio.create_task(ai.completions.create(**ENDLESS))
            await until(lambda: is_active(narrow))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

        assert await says_ping(narrow) == "pong zebra"

    async def test_while_waiting_makes_room_for_the_next(self, narrow):
        async with client(narrow) as ai:
            stream = await ai.completions.create(**ENDLESS, stream=True)
            await anext(aiter(stream))
            for _ in range(3):
                asking = asyncio.create_task(ai.completions.create(**ENDLESS))
                await until(lambda: is_waiting(narrow))
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                await until(lambda: has_nobody_waiting(narrow))
            await stream.close()


async def has_nobody_waiting(child: MlxChild) -> bool:
    return (await health(child))["waiting"] == 0


async def is_active(child: MlxChild) -> bool:
    return (await health(child))["active"] == 1


async def is_idle(child: MlxChild) -> bool:
    found = await health(child)
    return (found["active"], found["waiting"]) == (0, 0)


class TestSupervision:
    async def test_replaces_a_child_that_was_killed(self, mortal, refused):
        assert await says_ping(mortal) == "pong zebra"

    async def test_says_when_to_come_back_while_the_child_is_down(self, refused):
        assert 1 < refused.extra["retry_after_s"] <= BACKOFF_S

    async def test_replaces_a_child_that_is_wedged(self, mortal):
        former_pid = mortal.pid
        os.kill(former_pid, signal.SIGSTOP)
        await restarted(mortal, former_pid)

        assert not psutil.pid_exists(former_pid)
        assert await says_ping(mortal) == "pong zebra"

    async def test_says_why_a_model_cannot_be_served(self, tmp_path):
        child = MlxChild(MlxOptions(model=str(tmp_path)))

        with pytest.raises(MlxDown, match=r"config\.json"):
            await child.start()

    async def test_does_not_take_a_folder_that_is_missing_for_a_repository(self, tmp_path):
        child = MlxChild(MlxOptions(model=str(tmp_path / "missing")))

        with pytest.raises(MlxDown, match="no such folder"):
            await child.start()

    async def test_gives_up_a_start_that_takes_too_long(self, model):
        child = MlxChild(MlxOptions(model=str(model), start_timeout_s=0.01))

        with pytest.raises(MlxDown, match=r"not ready after 0\.01 s"):
            await child.start()

    async def test_says_what_to_install(self, model, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlx_lm", None)

        with pytest.raises(MlxMissing, match="uv sync --extra mlx"):
            await MlxChild(MlxOptions(model=str(model))).start()

    async def test_logs_no_prompts(self, logged, ai):
        messages = [{"role": "user", "content": "zanzibar"}]
        await ai.chat.completions.create(model=MODEL, messages=messages, max_tokens=3)

        told = [(record.getMessage(), record.fields) for record in logged]
        assert "routing.mlx-started" in [event for event, _ in told]
        assert "zanzibar" not in str(told)


def refusal(child: MlxChild) -> Unavailable | None:
    try:
        child.base_url  # noqa: B018 - reading it is the question
    except Unavailable as error:
        return error if "again" in str(error) else None
    return None


@asynccontextmanager
async def alone(model: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A child without its supervisor."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", CHILD, "--model", str(model)), stdin=pipe, stdout=pipe
    )
    try:
        hello = json.loads(await asyncio.wait_for(process.stdout.readline(), WITHIN_S))
        yield process, f"http://127.0.0.1:{hello['port']}/v1"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class TestEnd:
    @pytest.mark.parametrize("way", ["eof", "sigterm"])
    async def test_is_clean_in_the_middle_of_work(self, model, way):
        async with (
            alone(model) as (process, base_url),
            openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as ai,
        ):
            await ai.embeddings.create(model=MODEL, input="ping")
            stream = await ai.completions.create(**ENDLESS, stream=True)
            await anext(aiter(stream))
            process.stdin.close() if way == "eof" else process.terminate()

            # 134 is what MLX makes of a thread that has left a stream open.
            assert await asyncio.wait_for(process.wait(), WITHIN_S) == 0

    async def test_comes_with_the_parent_s_however_it_dies(self, model):
        parent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PARENT, str(model)), stdout=asyncio.subprocess.PIPE
        )
        line = await asyncio.wait_for(parent.stdout.readline(), WITHIN_S)
        pid = int(line)
        assert psutil.pid_exists(pid)

        parent.kill()
        await parent.wait()

        await until(lambda: is_gone(pid), within_s=WITHIN_S)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class TestUpstream:
    async def test_starts_with_the_first_question_and_follows_a_restart(self, model):
        others = children_of(model)
        upstream = MlxUpstream(MlxOptions(model=str(model)), open_client)
        try:
            names = await until(lambda: names_of(upstream), within_s=WITHIN_S)
            first = await upstream.post(Ask("chat/completions", "tiny", chat().encode()))
            (mine,) = children_of(model) - others
            mine.kill()
            await until(lambda: is_gone(mine.pid))
            again = await until(lambda: answer_of(upstream), within_s=WITHIN_S)
        finally:
            await upstream.close()

        assert names == [MODEL]
        assert (first.status, again.status) == (200, 200)
        assert b"pong zebra" in again.body


async def names_of(upstream: MlxUpstream) -> list[str] | None:
    try:
        return await upstream.models()
    except Unavailable:
        return None


async def answer_of(upstream: MlxUpstream) -> Answer | None:
    try:
        return await upstream.post(Ask("chat/completions", "tiny", chat().encode()))
    except AppError:
        return None


def children_of(model: Path) -> set[psutil.Process]:
    mine = psutil.Process().children()
    return {process for process in mine if str(model) in process.cmdline()}
