"""From outcomes to values and errors."""

import builtins
import json
import pickle

import pytest

import ai_spine
from ai_spine._call import Answer, Call, Fault
from ai_spine._decode import MESSAGE_MAX_CHARS, decode
from ai_spine._endpoints import a_list, an_object, create_flow, execute_flow
from tests.client.callers import KEY

CALL = Call("GET", "/flows", an_object, retry=True)
LIST = Call("GET", "/flows", a_list("flows"), retry=True)


def answered(status: int, body: object = None, call: Call = CALL, **headers: str) -> object:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return decode(call, Answer(status, named, content), KEY, 30.0)


def error(status: int, body: object = None, **headers: str) -> ai_spine.AISpineError:
    with pytest.raises(ai_spine.AISpineError) as raised:
        answered(status, body, **headers)
    return raised.value


class TestValues:
    @pytest.mark.parametrize("content", [b"", b"null"])
    def test_take_nothing_for_an_empty_object(self, content):
        assert answered(204, content) == {}

    @pytest.mark.parametrize("body", [[{"a": 1}], {"flows": [{"a": 1}], "count": 1}])
    def test_take_a_list_bare_or_named(self, body):
        assert answered(200, body, LIST) == [{"a": 1}]

    @pytest.mark.parametrize("body", [b"<html>", b"\xff", b"[" * 100_000, b'"text"', b"[]", b"1"])
    def test_refuse_what_is_no_object(self, body):
        with pytest.raises(ai_spine.APIError, match="base_url"):
            answered(200, body)

    @pytest.mark.parametrize("body", [{}, {"flows": None}, {"flows": ["x"]}, "text", None])
    def test_refuse_what_has_no_list(self, body):
        with pytest.raises(ai_spine.APIError, match="list of flows"):
            answered(200, body, LIST)

    @pytest.mark.parametrize("body", [{}, [], {"execution_id": 7}])
    def test_refuse_a_start_without_an_execution(self, body):
        with pytest.raises(ai_spine.APIError, match="base_url"):
            answered(200, body, execute_flow("f", {}))

    def test_take_404_for_the_answer_where_that_is_no_error(self):
        call = Call("DELETE", "/agents/a", bool, if_missing=False)

        assert answered(404, {"detail": "gone"}, call) is False


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (302, ai_spine.APIError),
            (400, ai_spine.ValidationError),
            (401, ai_spine.AuthenticationError),
            (403, ai_spine.APIError),
            (404, ai_spine.NotFoundError),
            (409, ai_spine.ConflictError),
            (413, ai_spine.APIError),
            (422, ai_spine.ValidationError),
            (429, ai_spine.RateLimitError),
            (500, ai_spine.APIError),
            (501, ai_spine.APIError),
            (503, ai_spine.APIError),
            (799, ai_spine.APIError),
        ],
    )
    def test_are_of_the_kind_that_the_status_says(self, status, kind):
        raised = error(status, {"message": "no"})

        assert type(raised) is kind
        assert raised.status_code == status

    @pytest.mark.parametrize(
        "body",
        [
            {"message": "no", "error_code": "INSUFFICIENT_CREDITS"},
            {"message": "no", "details": {"error_code": "insufficient_credits"}},
            {"detail": "You have no credits."},
        ],
    )
    def test_tell_spent_credits_from_other_refusals(self, body):
        assert type(error(403, body)) is ai_spine.InsufficientCreditsError

    def test_say_how_many_credits_there_are(self):
        details = {"credits_needed": 5, "credits_available": 2}

        raised = error(403, {"message": "credits", "details": details})

        assert (raised.credits_needed, raised.credits_available) == (5, 2)

    def test_carry_what_the_server_said(self):
        said = {
            "detail": "There is no such flow.",
            "message": "There is no such flow.",
            "error_code": "FLOW_NOT_FOUND",
            "details": {"flow_id": "x"},
            "request_id": "r1",
        }

        raised = error(404, said)

        assert str(raised) == raised.message == "There is no such flow."
        assert (raised.error_code, raised.request_id) == ("FLOW_NOT_FOUND", "r1")
        assert raised.details == {"flow_id": "x"}

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"detail": "a"}, "a"),
            ({"error": "b"}, "b"),
            ({"error": {"message": "c"}}, "c"),
            ({"message": "", "detail": ["x"]}, "HTTP 500 Internal Server Error"),
            (["x"], "HTTP 500 Internal Server Error"),
            (b"<html>", "HTTP 500 Internal Server Error"),
            (b"", "HTTP 500 Internal Server Error"),
        ],
    )
    def test_read_the_words_of_any_server(self, body, message):
        assert str(error(500, body)) == message

    def test_have_a_number_when_they_have_no_words(self):
        assert str(error(799, b"")) == "HTTP 799"

    def test_say_where_a_redirect_comes_from(self):
        assert "base_url" in str(error(307, b""))

    def test_say_when_to_come_back(self):
        assert error(429, {}, retry_after="17").retry_after == 17
        assert error(429, {}, retry_after="Wed, 21 Oct 2026 07:28:00 GMT").retry_after is None

    def test_never_carry_the_key(self):
        raised = error(401, {"message": f"Bad key {KEY}", "details": {"sent": [f"x{KEY}"]}})

        shown = f"{raised!r} {raised} {raised.details}"
        assert KEY not in shown
        assert "Bad key [key]" in shown

    def test_have_a_limit(self):
        assert len(str(error(500, {"message": "x" * 100_000}))) == MESSAGE_MAX_CHARS

    def test_say_when_nothing_came_in_time(self):
        with pytest.raises(builtins.TimeoutError, match="within 30 s") as raised:
            decode(CALL, Fault("read", is_sent=True, is_late=True), KEY, 30.0)

        assert isinstance(raised.value, ai_spine.TimeoutError)
        assert raised.value.timeout == 30.0

    @pytest.mark.parametrize("is_late", [True, False])
    def test_say_when_a_write_may_have_been_done(self, is_late):
        with pytest.raises(ai_spine.AISpineError, match="It may have been done"):
            decode(create_flow({"a": 1}), Fault("x", is_sent=True, is_late=is_late), KEY, 30.0)

    def test_say_when_nobody_was_there(self):
        with pytest.raises(ai_spine.NetworkError, match="GET /flows: refused"):
            decode(CALL, Fault("refused", is_sent=False, is_late=False), KEY, 30.0)

    @pytest.mark.parametrize(
        "raised",
        [
            ai_spine.RateLimitError("slow down", 7, {"a": 1}, request_id="r"),
            ai_spine.TimeoutError("late", 3.0, "e1"),
            ai_spine.ExecutionError("failed", "e1", {"status": "failed"}),
            ai_spine.NotFoundError("none", status_code=404, error_code="X"),
        ],
    )
    def test_travel_between_processes(self, raised):
        copied = pickle.loads(pickle.dumps(raised))

        assert type(copied) is type(raised)
        assert (str(copied), vars(copied)) == (str(raised), vars(raised))

    def test_are_all_of_one_family(self):
        named = [getattr(ai_spine, name) for name in ai_spine.__all__ if name.endswith("Error")]

        assert len(named) == 11
        assert all(issubclass(kind, ai_spine.AISpineError) for kind in named)
