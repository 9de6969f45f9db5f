"""What becomes of a local model's tokens: characters, stops, thoughts and calls."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.generate import TextStateMachine

from app.modules.routing.adapters.mlx_jobs import Delta
from app.modules.routing.adapters.mlx_text import Decoder, StopFilter, Voice

TOOLS = [{"type": "function", "function": {"name": "add"}}]
CALL = '{"name": "add", "arguments": {"a": 1}}'
FAMILY = SimpleNamespace(
    tool_call_start="<call>", tool_call_end="</call>", tool_parser=lambda text, _: json.loads(text)
)
MARKERS = {
    "normal": [("<think>", "reasoning"), ("<call>", "tool")],
    "reasoning": [("</think>", "normal")],
    "tool": [("</call>", "normal")],
}
BYTES = SimpleNamespace(decode=lambda tokens, **_: bytes(tokens).decode(errors="replace"))


def fed(stops: tuple[str, ...], pieces: list[str]) -> str:
    stop = StopFilter(stops)
    shown = ""
    for piece in pieces:
        shown += stop.feed(piece)
        if stop.is_stopped:
            return shown
    return shown + stop.rest()


def heard(*pieces: str, state: str = "normal", tools: list[dict] | None = TOOLS) -> list[Delta]:
    voice = Voice(FAMILY, TextStateMachine(MARKERS), state, tools)
    return [*(delta for piece in pieces for delta in voice.feed(piece)), *voice.close()]


def spoken(*pieces: str, state: str = "normal", tools: list[dict] | None = TOOLS) -> dict:
    deltas = heard(*pieces, state=state, tools=tools)
    return {
        "content": "".join(delta.content for delta in deltas),
        "reasoning": "".join(delta.reasoning for delta in deltas),
        "calls": [(delta.call.name, delta.call.arguments) for delta in deltas if delta.call],
    }


class TestStopFilter:
    @given(st.lists(st.text("abc", max_size=4)), st.text("abc", min_size=1, max_size=3))
    def test_cuts_at_the_stop_however_the_text_comes(self, pieces, stop):
        assert fed((stop,), pieces) == "".join(pieces).partition(stop)[0]

    def test_shows_at_once_what_cannot_be_a_stop(self):
        stop = StopFilter(("END",))

        assert [stop.feed(piece) for piece in ("one EN", "TRY E")] == ["one ", "ENTRY "]

    def test_takes_the_first_of_several(self):
        assert fed(("three", "two"), ["one two three"]) == "one "

    def test_lets_everything_through_without_stops(self):
        assert fed((), ["one ", "two"]) == "one two"


class TestDecoder:
    @given(st.text())
    def test_gives_the_text_whatever_its_bytes(self, text):
        decoder = Decoder(BYTES, list(b"before"))

        pieces = [decoder.add(token) for token in text.encode()]

        assert "".join(pieces) + decoder.rest() == text
        assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text

    def test_does_not_wait_for_bytes_that_make_no_character(self):
        decoder = Decoder(BYTES, [])

        pieces = [decoder.add(0xFF) for _ in range(4)]

        assert pieces == ["", "", "", "\ufffd" * 4]


class TestVoice:
    def test_tells_a_thought_from_what_is_said(self):
        told = spoken("<thi", "nk>hm", "m</think>\n\n", "\nYes.\n")

        assert told == {"content": "Yes.\n", "reasoning": "hmm", "calls": []}

    def test_begins_in_the_thought_that_the_template_opened(self):
        told = spoken("hmm</think>Yes.", state="reasoning")

        assert told == {"content": "Yes.", "reasoning": "hmm", "calls": []}

    @given(st.integers(1, 40))
    def test_reads_calls_however_they_come(self, size):
        text = f"Well: <call>{CALL}</call>\n<call>{CALL}</call>"
        pieces = [text[at : at + size] for at in range(0, len(text), size)]

        told = spoken(*pieces)

        assert told["content"] == "Well: "
        assert told["calls"] == [("add", '{"a":1}')] * 2

    def test_reads_a_call_that_the_answer_ends_in(self):
        assert spoken(f"<call>{CALL}")["calls"] == [("add", '{"a":1}')]

    @pytest.mark.parametrize("text", ["{broken", "[1]", '{"name": 7}', "null"])
    def test_gives_a_call_that_is_none_as_text(self, text):
        told = spoken(f"<call>{text}</call>")

        assert told == {"content": f"<call>{text}</call>", "reasoning": "", "calls": []}

    def test_gives_a_call_as_text_when_no_tool_was_offered(self):
        told = spoken(f"<call>{CALL}</call>", tools=None)

        assert told == {"content": f"<call>{CALL}</call>", "reasoning": "", "calls": []}

    def test_shows_what_only_looked_like_a_marker(self):
        assert spoken("1 <ca", "n> 2 <cal")["content"] == "1 <can> 2 <cal"

    def test_keeps_the_id_that_the_model_gave(self):
        call = json.dumps({"id": "mine", "name": "add", "arguments": "{}"})

        (delta,) = heard(f"<call>{call}</call>")

        assert (delta.call.id, delta.call.arguments) == ("mine", "{}")
