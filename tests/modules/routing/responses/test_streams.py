"""Streams of chat completion chunks, as events."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.modules.routing.domain.faults import AnswerTooLarge
from app.modules.routing.domain.responses.output import OUTPUT_LIMIT_CHARACTERS
from tests.modules.routing.responses.cases import (
    DONE,
    EVENT,
    FOLDER,
    LAST,
    RESPONSE_ID,
    call,
    chunk,
    events,
    golden,
    translated,
    translator,
)

ERROR = b'data: {"error":{"message":"Broken.","code":"x","param":"p"}}\n\n'
GIVEN = golden("stream-*.chat.sse")


def types(found: list[dict]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


def response_of(found: list[dict]) -> dict:
    return found[-1]["response"]


class TestFeed:
    @pytest.mark.parametrize("path", GIVEN)
    def test_is_as_in_the_golden_file(self, path):
        expected = path.with_name(path.name.replace(".chat.", ".responses."))
        talk = translator()

        text = talk.feed(path.read_bytes()) + talk.finish()

        assert events(text) == events(expected.read_bytes())

    @pytest.mark.parametrize("path", GIVEN)
    def test_is_the_same_for_every_byte_by_itself(self, path):
        stream = path.read_bytes()
        talk, slow = translator(), translator()

        at_once = talk.feed(stream) + talk.finish()
        by_byte = b"".join(slow.feed(stream[i : i + 1]) for i in range(len(stream)))

        assert by_byte + slow.finish() == at_once

    @pytest.mark.parametrize("path", GIVEN)
    def test_line_ends_make_no_difference(self, path):
        stream = path.read_bytes()

        assert translated(stream.replace(b"\n", b"\r\n")) == translated(stream)

    @pytest.mark.parametrize("path", GIVEN)
    def test_is_what_the_client_understands(self, path):
        for event in translated(path.read_bytes()):
            assert EVENT.validate_python(event).type == event["type"]

    def test_says_nothing_after_the_end(self):
        talk = translator()
        talk.feed(chunk({"content": "Hi."}) + DONE)

        assert talk.feed(chunk({"content": "More."}) + DONE) + talk.finish() == b""

    def test_keeps_the_response_once_it_is_final(self):
        talk = translator()
        text = talk.feed(chunk({"content": "Hi."}))
        before = talk.answer
        text += talk.feed(DONE)

        assert before == b""
        assert json.loads(talk.answer) == response_of(events(text))

    def test_begins_with_a_response_that_has_nothing_yet(self):
        created, in_progress = translated(chunk({"content": "Hi."}))[:2]

        assert types([created, in_progress]) == ["created", "in_progress"]
        assert created["response"] == in_progress["response"]
        assert created["response"]["status"] == "in_progress"
        assert created["response"]["output"] == []

    def test_only_the_first_choice_was_asked_for(self):
        other = b'data: {"choices":[{"index":1,"delta":{"content":"B"}}]}\n\n'

        assert response_of(translated(other + DONE))["output"] == []

    def test_the_last_usage_counts(self):
        usages = [{"prompt_tokens": 3, "completion_tokens": n} for n in (1, 2)]

        found = translated(b"".join(chunk(usage=usage) for usage in usages) + DONE)

        assert response_of(found)["usage"]["total_tokens"] == 5

    def test_a_piece_without_a_number_belongs_to_the_call_before(self):
        pieces = [{"id": "a", "function": {"name": "f"}}, {"function": {"arguments": "{}"}}]

        found = translated(b"".join(chunk({"tool_calls": [piece]}) for piece in pieces) + DONE)

        (only,) = response_of(found)["output"]
        assert (only["call_id"], only["name"], only["arguments"]) == ("a", "f", "{}")

    def test_an_id_that_is_repeated_begins_nothing(self):
        found = translated(
            chunk(call(0, "{", id="a", name="f")) + chunk(call(0, "}", id="a", name="f")) + DONE
        )

        (only,) = response_of(found)["output"]
        assert only["arguments"] == "{}"

    def test_an_error_in_the_stream_is_told_and_ends_it(self):
        found = translated(chunk({"content": "Hi."}) + ERROR + chunk({"content": "More."}) + DONE)

        assert types(found)[-2:] == ["error", "failed"]
        assert found[-2] == {
            "type": "error",
            "code": "x",
            "message": "Broken.",
            "param": "p",
            "sequence_number": found[-1]["sequence_number"] - 1,
        }
        assert response_of(found)["error"] == {"code": "server_error", "message": "Broken."}

    def test_what_is_cut_is_never_called_done(self):
        found = translated(chunk(call(0, '{"to', id="a", name="f")) + ERROR)

        assert not [event for event in found if event["type"].endswith(".done")]
        assert response_of(found)["output"][0]["status"] == "incomplete"

    @pytest.mark.parametrize("data", [b"<html>", b"5", b'{"choices":[{"delta":5}]}', b"[" * 9999])
    def test_an_event_that_is_no_chunk_fails_the_response(self, data):
        found = translated(b"data: " + data + b"\n\n")

        assert types(found) == ["created", "in_progress", "error", "failed"]

    def test_an_answer_without_end_is_ended(self):
        talk = translator()
        long = chunk({"content": "x" * (OUTPUT_LIMIT_CHARACTERS // 4 + 1)})
        for _ in range(3):
            talk.feed(long)

        with pytest.raises(AnswerTooLarge):
            talk.feed(long)
        assert types(events(talk.feed(ERROR)))[-1] == "failed"


class TestFinish:
    @pytest.mark.parametrize(
        "stream", [b"", chunk({"content": "Hi."}), chunk({}, "stop"), chunk({"content": "H"})[:30]]
    )
    def test_a_stream_without_its_closing_mark_has_failed(self, stream):
        found = translated(stream)

        assert types(found)[-2:] == ["error", "failed"]
        assert response_of(found)["status"] == "failed"

    def test_a_closing_mark_needs_no_empty_line(self):
        assert types(translated(chunk({"content": "Hi."}) + DONE.strip()))[-1] == "completed"


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
deltas = st.one_of(
    st.builds(lambda text: {"content": text}, texts),
    st.builds(lambda text: {"reasoning_content": text}, texts),
    st.builds(lambda text: {"refusal": text}, texts),
    st.builds(lambda n, text: call(n, text, id=f"c{n}", name="f"), st.integers(0, 2), texts),
)
endings = st.sampled_from(
    [
        chunk({}, "stop") + DONE,
        chunk({}, "length") + chunk(usage={"prompt_tokens": 1, "completion_tokens": 2}) + DONE,
        ERROR,
        b"",
    ]
)


class TestAnyStream:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(deltas, max_size=8), endings, st.data())
    def test_any_chunks_give_the_same_events(self, said, ending, data):
        stream = b"".join(map(chunk, said)) + ending
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
        places = sorted({0, len(stream), *cuts})
        whole, cut = translator(), translator()

        pieces = [cut.feed(stream[start:end]) for start, end in pairwise(places)]

        at_once = whole.feed(stream) + whole.finish()
        assert b"".join(pieces) + cut.finish() == at_once

    @settings(max_examples=150, deadline=None)
    @given(st.lists(deltas, max_size=8), endings)
    def test_numbers_have_no_gap_and_the_last_event_is_one(self, said, ending):
        found = translated(b"".join(map(chunk, said)) + ending)

        assert [event["sequence_number"] for event in found] == list(range(len(found)))
        assert [event["type"] for event in found if event["type"] in LAST] == [found[-1]["type"]]

    @settings(max_examples=150, deadline=None)
    @given(st.lists(deltas, max_size=8), endings)
    def test_what_is_done_is_what_was_said_in_pieces(self, said, ending):
        found = translated(b"".join(map(chunk, said)) + ending)
        pieces: dict[tuple, str] = {}

        for event in found:
            of = event["type"].rpartition(".")[0], event.get("item_id"), event.get("content_index")
            if event["type"].endswith(".delta"):
                pieces[of] = pieces.get(of, "") + event["delta"]
            elif event["type"].endswith((".text.done", "_text.done", "refusal.done")):
                assert pieces[of] == event.get("text", event.get("refusal"))
            elif event["type"].endswith("arguments.done"):
                assert pieces[of] == event["arguments"]

    @settings(max_examples=150, deadline=None)
    @given(st.lists(deltas, max_size=8), endings)
    def test_items_are_added_at_their_place_and_end_as_they_were_told(self, said, ending):
        found = translated(b"".join(map(chunk, said)) + ending)
        added = [event for event in found if event["type"] == "response.output_item.added"]
        done = {e["output_index"]: e["item"] for e in found if e["type"].endswith("item.done")}
        output = response_of(found)["output"]

        assert [event["output_index"] for event in added] == list(range(len(output)))
        assert [event["item"]["id"] for event in added] == [item["id"] for item in output]
        assert all(output[place] == item for place, item in done.items())
        assert found[-1]["type"] == "response.failed" or len(done) == len(output)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(deltas, max_size=5), endings)
    def test_the_client_understands_every_event(self, said, ending):
        for event in translated(b"".join(map(chunk, said)) + ending):
            EVENT.validate_python(event)


class TestTheClient:
    def test_puts_the_same_response_together(self):
        """Its own helper follows the events, item by item and part by part."""
        import httpx
        from openai import OpenAI

        stream = (FOLDER / "stream-calls.responses.sse").read_bytes()

        def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(
                200, content=stream, headers={"content-type": "text/event-stream"}
            )

        with (
            httpx.Client(transport=httpx.MockTransport(answer)) as http,
            OpenAI(api_key="k", base_url="http://x/v1", http_client=http) as client,
            client.responses.stream(model="small", input="Weather in Rome?") as talk,
        ):
            final = talk.get_final_response()

        assert final.id == RESPONSE_ID
        assert final.output_text == "I look."
        assert [item.arguments for item in final.output[1:]] == ['{"town":"Rome"}', "{}"]
