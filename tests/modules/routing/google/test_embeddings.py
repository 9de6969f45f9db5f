"""Vectors of the Gemini API, asked and answered as OpenAI has them."""

import base64
import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from app.kernel.errors import Invalid
from app.modules.routing.domain.answers import Tokens, read_answer
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.google.embeddings import embed_answer, embed_request
from app.modules.routing.domain.messages.reading import BadMember
from app.modules.routing.domain.unmappable import Unmappable

VECTORS = (
    b'{"embeddings":[{"values":[0.5,-1]},{"values":[0.25,1e-3]}],"usageMetadata":'
    b'{"promptTokenCount":7,"promptTokenDetails":[{"modality":"TEXT","tokenCount":7}]}}'
)


def body(given, **more) -> bytes:
    return json.dumps({"model": "gemini-embedding-001", "input": given, **more}).encode()


def asked(given, **more):
    return json.loads(embed_request(body(given, **more), "models/gemini-embedding-001"))


class TestEmbedRequest:
    def test_asks_for_one_text(self):
        content = {"parts": [{"text": "hello"}]}

        assert asked("hello", user="u", encoding_format="float") == {
            "requests": [{"model": "models/gemini-embedding-001", "content": content}]
        }

    def test_asks_for_several_in_order(self):
        found = asked(["b", "a"], dimensions=256)["requests"]

        assert [request["content"]["parts"][0]["text"] for request in found] == ["b", "a"]
        assert [request["outputDimensionality"] for request in found] == [256, 256]

    @pytest.mark.parametrize("given", [[1, 2], [[1, 2]], ["a", 1], ["x"] * 101])
    def test_says_that_tokens_and_too_many_cannot_be_asked_for(self, given):
        with pytest.raises(Unmappable) as caught:
            asked(given)

        assert caught.value.extra["param"] == "input"

    def test_names_a_member_that_gemini_has_nothing_like(self):
        with pytest.raises(Unmappable) as caught:
            asked("x", normalize=True)

        assert caught.value.extra["param"] == "normalize"

    @pytest.mark.parametrize(
        ("given", "more", "param"),
        [
            ([], {}, "input"),
            (7, {}, "input"),
            ("x", {"dimensions": 0}, "dimensions"),
            ("x", {"encoding_format": "hex"}, "encoding_format"),
        ],
    )
    def test_names_a_member_that_is_wrong(self, given, more, param):
        with pytest.raises(BadMember) as caught:
            asked(given, **more)

        assert caught.value.extra["param"] == param

    @given(st.binary() | st.lists(st.text() | st.integers()).map(body))
    def test_fails_in_one_way_only(self, given):
        with suppress(Invalid):
            embed_request(given, "models/m")


class TestEmbedAnswer:
    def test_hands_the_vectors_on(self):
        told = embed_answer(VECTORS, body(["a", "b"]), "m")

        found = CreateEmbeddingResponse.model_validate_json(told.body)
        assert [vector.embedding for vector in found.data] == [[0.5, -1.0], [0.25, 0.001]]
        assert [vector.index for vector in found.data] == [0, 1]

    def test_packs_them_when_asked_to(self):
        told = embed_answer(VECTORS, body(["a", "b"], encoding_format="base64"), "m")

        packed = json.loads(told.body)["data"][0]["embedding"]
        assert struct.unpack("<2f", base64.b64decode(packed)) == (0.5, -1.0)

    def test_tells_the_meter_what_google_counted(self):
        part = read_answer(embed_answer(VECTORS, body("a"), "m").body)

        assert part is not None
        assert part.tokens == Tokens(input=7)

    def test_tells_no_count_where_google_tells_none(self):
        part = read_answer(embed_answer(b'{"embeddings":[]}', body("a"), "m").body)

        assert part is not None
        assert part.tokens is None

    @pytest.mark.parametrize(
        "answer",
        [b"", b"{}", b'{"embeddings":[{}]}', b'{"embeddings":[{"values":[1e300]}]}', b"\xff"],
    )
    def test_knows_what_is_no_answer(self, answer):
        with pytest.raises(UpstreamNonsense):
            embed_answer(answer, body("a", encoding_format="base64"), "m")
