"""What holds of every body: both ways and back it is the same, and nothing in it is unexpected."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.kernel.errors import AppError
from app.modules.routing.domain.messages.chat_stream import ChatFromMessages
from app.modules.routing.domain.messages.from_chat import message_answer, message_error
from app.modules.routing.domain.messages.from_messages import chat_answer, chat_error
from app.modules.routing.domain.messages.message_stream import MessagesFromChat
from app.modules.routing.domain.messages.to_chat import chat_request
from app.modules.routing.domain.messages.to_messages import messages_request
from tests.modules.routing.messages.golden import value_of

MODEL = "claude-opus-4-8"

# Text that both APIs take: not empty, and not of white space alone.
words = st.text(min_size=1, max_size=20).filter(str.strip)
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
leaves = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=10)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)
objects = st.dictionaries(names, values, max_size=3)
images = st.sampled_from(["data:image/png;base64,iVBORw==", "https://example.com/a.png"])
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, words),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, images),
)
user_contents = words | st.lists(parts, min_size=2, max_size=3)
calls = st.builds(
    lambda name, given: {
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(given)},
    },
    names,
    objects,
)
tools = st.builds(
    lambda name, about, schema: {
        "type": "function",
        "function": {"name": name, "description": about, "parameters": schema},
    },
    names,
    words,
    objects,
)


@st.composite
def exchanges(draw) -> list[dict]:
    """What the user says, what the assistant answers, and what its tools answer that."""
    said = [{"role": "user", "content": draw(user_contents)}]
    called = draw(st.lists(calls, max_size=2))
    numbered = [{"id": f"call_{number}", **call} for number, call in enumerate(called)]
    text = draw(words if not called else st.none() | words)
    answer = {"role": "assistant", "content": text}
    said.append(answer | ({"tool_calls": numbered} if called else {}))
    results = [draw(words) for _ in numbered]
    said += [
        {"role": "tool", "tool_call_id": call["id"], "content": result}
        for call, result in zip(numbered, results, strict=True)
    ]
    if called:
        said.append({"role": "assistant", "content": draw(words)})
    return said


@st.composite
def chats(draw) -> dict:
    """A request of chat completions, in the subset that both APIs have."""
    turns = [message for turn in draw(st.lists(exchanges(), max_size=2)) for message in turn]
    system = [{"role": "system", "content": text} for text in draw(st.lists(words, max_size=1))]
    last = {"role": "user", "content": draw(user_contents)}
    optional = {
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(1, 100),
        "stop": st.lists(words, min_size=1, max_size=4),
        "user": words,
        "reasoning_effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"]),
        "service_tier": st.just("default"),
        "tools": st.lists(tools, min_size=1, max_size=2),
    }
    asked = draw(st.fixed_dictionaries({}, optional=optional))
    if "tools" in asked:
        asked["tool_choice"] = draw(st.sampled_from(["auto", "none", "required"]))
    if draw(st.booleans()):
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    limit = {"max_tokens": draw(st.integers(1, 100_000))}
    return {"model": MODEL, "messages": [*system, *turns, last], **limit, **asked}


class TestRoundTrip:
    @given(chats())
    def test_a_chat_comes_back_as_it_was(self, chat):
        messages = messages_request(json.dumps(chat).encode(), MODEL)

        assert json.loads(chat_request(messages)) == chat

    def test_what_comes_back_is_not_translated_differently(self):
        messages = value_of("chat-request.as-messages.json") | {"model": MODEL}
        once = chat_request(json.dumps(messages).encode())

        again = chat_request(messages_request(once, MODEL))

        assert json.loads(again) == json.loads(once)


def damaged(draw: Callable[[Any], Any], value: Any) -> Any:
    """Put any value into some place of this one."""
    if draw(st.integers(0, 4)) == 0 or not isinstance(value, (list, dict)) or not value:
        return draw(values)
    place = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    found = value.copy()
    found[place] = damaged(draw, value[place])
    return found


@st.composite
def damages(draw, name: str) -> bytes:
    return json.dumps(damaged(draw, value_of(name))).encode()


def understood_or_refused(translate: Callable[[bytes], bytes], body: bytes) -> None:
    try:
        found = translate(body)
    except AppError:
        return
    assert isinstance(json.loads(found), dict)


def streamed(translator: Any, body: bytes) -> bytes:
    """Feed a body as the one event of a stream."""
    return b'{"is":%s}' % json.dumps(translator.feed(b"data: " + body + b"\n\n").decode()).encode()


class TestDamagedBodies:
    @given(damages("chat-request.json"))
    def test_a_chat_is_translated_or_refused(self, body):
        understood_or_refused(partial(messages_request, model=MODEL), body)

    @given(damages("messages-request.json"))
    def test_messages_are_translated_or_refused(self, body):
        understood_or_refused(chat_request, body)

    @given(damages("message-tools.json"))
    def test_a_message_is_translated_or_refused(self, body):
        understood_or_refused(chat_answer, body)
        understood_or_refused(partial(chat_error, 500), body)

    @given(damages("chat-tools.json"))
    def test_a_completion_is_translated_or_refused(self, body):
        understood_or_refused(partial(message_answer, model=MODEL), body)
        understood_or_refused(partial(message_error, 500), body)

    @given(
        st.sampled_from(["message_start", "content_block_start", "content_block_delta"]), objects
    )
    def test_an_event_is_translated_or_refused(self, kind, members):
        body = json.dumps({**members, "type": kind}).encode()

        understood_or_refused(partial(streamed, ChatFromMessages()), body)

    @given(damages("chat-tools.json"))
    def test_a_chunk_is_translated_or_refused(self, body):
        chunk = body.replace(b'"message"', b'"delta"')

        understood_or_refused(partial(streamed, MessagesFromChat(MODEL)), chunk)

    @given(st.binary(max_size=200))
    def test_bytes_are_translated_or_refused(self, body):
        for translate in (partial(messages_request, model=MODEL), chat_request, chat_answer):
            understood_or_refused(translate, body)
