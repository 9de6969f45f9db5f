"""HTTP: what is sent again, what is not, and what a vault refuses to read."""

import itertools
from collections.abc import Callable

import httpx
import pytest

from insula_vault import IntegrityError, NotFound, Refused, Session, Unreachable, Wire
from insula_vault.wire import ANSWER_MAX_BYTES, ATTEMPTS_MAX, PAUSE_MAX_S, Call
from tests.vault.store import BASE

READ = Call("GET", "/thing")
WRITE = Call("POST", "/thing", json={}, is_repeatable=False)


class Script:
    """Answers by a list, the last one for ever. ``pauses`` are what the wire waited."""

    def __init__(self, *steps: int | Exception | Callable[[httpx.Request], httpx.Response]) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def wire(self, session: Session | None = None) -> Wire:
        transport = httpx.MockTransport(self.answer)
        return Wire(BASE, session, transport=transport, sleep=self.pauses.append)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step, json={"ok": True}) if isinstance(step, int) else step(request)


class TestSend:
    def test_asks_again_when_a_read_finds_nobody(self):
        script = Script(httpx.ConnectError("x"), httpx.ReadTimeout("x"), 503, 200)

        assert script.wire().json(READ) == {"ok": True}
        assert len(script.pauses) == 3

    def test_gives_up_after_some_attempts(self):
        script = Script(httpx.ConnectError("x"))

        with pytest.raises(Unreachable):
            script.wire().send(READ)
        assert len(script.requests) == ATTEMPTS_MAX

    def test_says_that_a_server_is_not_available(self):
        with pytest.raises(Unreachable, match="503"):
            Script(503).wire().send(READ)

    @pytest.mark.parametrize("step", [httpx.ReadTimeout("x"), 502, 503, 504])
    def test_sends_once_what_must_not_be_repeated(self, step):
        script = Script(step)

        with pytest.raises(Unreachable):
            script.wire().send(WRITE)
        assert len(script.requests) == 1

    def test_waits_as_long_as_it_is_told_and_no_longer_than_a_limit(self):
        def later(seconds: str) -> Callable[[httpx.Request], httpx.Response]:
            return lambda _: httpx.Response(429, headers={"retry-after": seconds})

        script = Script(later("3"), later("86400"), 200)

        script.wire().send(WRITE)

        assert script.pauses == [3.0, PAUSE_MAX_S]

    def test_tells_a_problem_by_its_kind(self):
        problem = {"type": "urn:problem:quota-exceeded", "detail": "full", "needed_bytes": 7}

        with pytest.raises(Refused, match="full") as refused:
            Script(lambda _: httpx.Response(507, json=problem)).wire().send(READ)

        assert (refused.value.status, refused.value.kind) == (507, "quota-exceeded")
        assert refused.value.extras["needed_bytes"] == 7

    @pytest.mark.parametrize("content", [b"", b"<html>", b"[1]", b"\xff"])
    def test_survives_an_error_that_is_no_problem_document(self, content):
        with pytest.raises(Refused):
            Script(lambda _: httpx.Response(400, content=content)).wire().send(READ)

    def test_calls_what_is_not_there_not_found(self):
        with pytest.raises(NotFound):
            Script(404).wire().send(READ)

    def test_does_not_follow_anywhere_with_its_token(self):
        away = {"location": "https://elsewhere.test/"}
        script = Script(lambda _: httpx.Response(307, headers=away))

        with pytest.raises(Refused):
            script.wire(Session("token")).send(READ)
        assert len(script.requests) == 1

    def test_reads_no_more_than_a_limit(self):
        endless = itertools.repeat(bytes(ANSWER_MAX_BYTES // 8))
        script = Script(lambda _: httpx.Response(200, content=endless))

        with pytest.raises(IntegrityError, match="no end"):
            script.wire().send(READ)

    @pytest.mark.parametrize("content", [b"", b"[]", b'"text"', b"{"])
    def test_refuses_what_is_no_object_where_one_belongs(self, content):
        with pytest.raises(IntegrityError):
            Script(lambda _: httpx.Response(200, content=content)).wire().json(READ)


class TestSession:
    def test_is_renewed_and_the_call_repeated(self):
        tokens = {"access_token": "new", "refresh_token": "next"}
        session = Session("old", "refresh")
        script = Script(401, lambda _: httpx.Response(200, json=tokens), 200)

        script.wire(session).send(WRITE)

        sent = [request.headers.get("authorization") for request in script.requests]
        assert sent == ["Bearer old", None, "Bearer new"]
        assert (session.access_token, session.refresh_token) == ("new", "next")

    def test_that_has_ended_is_said(self):
        script = Script(401)

        with pytest.raises(Refused, match="401"):
            script.wire(Session("old", "refresh")).send(READ)
        assert len(script.requests) == 2

    def test_shows_no_token(self):
        assert repr(Session("secret", "secret")) == "Session()"


class TestStream:
    def test_goes_on_where_it_broke_off(self):
        def broken(request: httpx.Request) -> httpx.Response:
            def pieces():
                yield b"0123"
                raise httpx.ReadError("broken")

            return httpx.Response(200, content=pieces(), headers={"etag": '"1"'})

        def rest(request: httpx.Request) -> httpx.Response:
            assert request.headers["range"] == "bytes=4-"
            assert request.headers["if-range"] == '"1"'
            return httpx.Response(206, content=b"456", headers={"etag": '"1"'})

        assert b"".join(Script(broken, 503, rest).wire().stream("/body")) == b"0123456"

    def test_is_refused_when_another_body_goes_on(self):
        def broken(_: httpx.Request) -> httpx.Response:
            def pieces():
                yield b"0123"
                raise httpx.ReadError("broken")

            return httpx.Response(200, content=pieces(), headers={"etag": '"1"'})

        def other(_: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=b"another", headers={"etag": '"2"'})

        with pytest.raises(Unreachable, match="read it again"):
            list(Script(broken, other).wire().stream("/body"))

    def test_renews_the_session_first(self):
        tokens = {"access_token": "new", "refresh_token": "next"}
        script = Script(
            401,
            lambda _: httpx.Response(200, json=tokens),
            lambda _: httpx.Response(200, content=b"body"),
        )

        assert list(script.wire(Session("old", "refresh")).stream("/body")) == [b"body"]

    def test_gives_up_after_some_attempts(self):
        with pytest.raises(Unreachable):
            list(Script(httpx.ConnectError("x")).wire().stream("/body"))


class TestWire:
    @pytest.mark.parametrize("url", ["http://vault.example", "ftp://localhost.example", "vault"])
    def test_refuses_to_show_tokens_on_the_way(self, url):
        with pytest.raises(ValueError, match="https"):
            Wire(url)

    @pytest.mark.parametrize("url", ["https://vault.example", "http://127.0.0.1:8000"])
    def test_takes_what_is_private(self, url):
        Wire(url).close()
