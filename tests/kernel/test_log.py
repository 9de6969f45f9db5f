"""Logs: one JSON object a line, and no secret in any."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from app.kernel import log
from app.kernel.log import QUEUE_LIMIT, TEXT_LIMIT_CHARS, JsonHandler, LineWriter
from app.kernel.settings import Secret

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


class Written:
    """What has been logged by a logger of the test's own."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.writer = LineWriter(self.stream)

    @property
    def lines(self) -> list[dict[str, Any]]:
        self.writer.flush()
        return [json.loads(line) for line in self.stream.getvalue().split("\n")[:-1]]

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines
        return line


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def logger(written: Written) -> logging.Logger:
    """A logger that stands alone, so that nothing global changes."""
    logger = logging.Logger("insula.test")
    logger.addHandler(JsonHandler(written.writer))
    return logger


@pytest.fixture
def events(logger: logging.Logger) -> log.EventLog:
    return log.EventLog(logger)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Lend the root logger, which ``configure`` takes over, and put it back."""
    root, house = logging.getLogger(), logging.getLogger("insula")
    handlers, levels = root.handlers[:], (root.level, house.level)
    yield root
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    house.setLevel(levels[1])


class TestLine:
    def test_is_one_object_with_event_level_and_fields(self, events, written):
        events.info("test.order-shipped", order_id=UUID(int=7), count=3, is_late=False, note=None)

        line = written.line
        assert 0 < line.pop("at") < 1e11
        assert line == {
            "level": "info",
            "event": "test.order-shipped",
            "logger": "insula.test",
            "order_id": "00000000-0000-0000-0000-000000000007",
            "count": 3,
            "is_late": False,
            "note": None,
        }

    def test_stays_one_line_whatever_it_holds(self, events, written):
        events.info("test.odd", text="one\ntwo\r\x00\x1b[31m\u2028 \ud800 é", deep={"a": [1, "b"]})

        assert written.line["text"] == "one\ntwo\r\x00\x1b[31m\u2028 ? é"
        assert written.line["deep"] == {"a": [1, "b"]}

    def test_carries_the_id_of_the_request(self, events, written):
        token = log.request_id.set("request-7")
        events.info("test.within")
        log.request_id.reset(token)
        events.info("test.outside")

        within, outside = written.lines
        assert within["request_id"] == "request-7"
        assert "request_id" not in outside

    def test_keeps_the_words_of_a_library(self, logger, written):
        logger.warning("pool of %s is %d", "db", 7)

        assert written.line["event"] == "pool of db is 7"

    def test_is_written_for_a_library_that_logs_wrongly(self, logger, written):
        logger.warning("%d items", "many")

        assert written.line["event"] == "log.line-lost"

    def test_is_written_for_a_value_that_cannot_be_shown(self, events, written):
        class Shy:
            def __str__(self) -> str:
                raise RuntimeError

        events.info("test.shy", value=Shy())

        assert written.line["event"] == "log.line-lost"


class TestMask:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("key isk_abcd1234efgh5678 end", "key isk_abcd*** end"),
            ("key sk-proj-abcdefgh12345678 end", "key sk-proj*** end"),
            ("Authorization: Bearer abcdefgh.ijkl end", "Authorization: Bearer *** end"),
            (f"token={JWT} end", "token=eyJ*** end"),
            ("postgresql://me:hunter2@db/x", "postgresql://me:***@db/x"),
            ("redis://:hunter2@db/0", "redis://:***@db/0"),
            ("http://localhost:8000/a@b", "http://localhost:8000/a@b"),
            ("nothing to hide", "nothing to hide"),
        ],
    )
    def test_cuts_out_what_looks_like_a_secret(self, text, shown):
        assert log.mask(text) == shown

    @pytest.mark.parametrize(
        "hostile", ["eyJ-", "eyJaaaaaaaa.", "://a:", "Bearer ", "sk-a", "isk_"]
    )
    @pytest.mark.timeout(10)
    def test_takes_no_longer_for_a_hostile_text(self, hostile):
        log.mask(hostile * 100_000)

    def test_covers_the_event_itself(self, logger, written):
        logger.warning("cannot reach %s", "redis://:hunter2@db/0")

        assert "hunter2" not in json.dumps(written.line)

    @pytest.mark.parametrize("name", ["password", "Authorization", "apikey", "new_token", "cookie"])
    def test_covers_a_field_by_its_name(self, events, written, name):
        events.info("test.login", **{name: "hunter2"})

        assert written.line[name] == "***"

    def test_covers_a_name_within_a_field(self, events, written):
        events.info("test.call", headers={"Cookie": "a=b", "Accept": "*/*"})

        assert written.line["headers"] == {"Cookie": "***", "Accept": "*/*"}

    def test_covers_a_shape_within_a_field(self, events, written):
        events.info("test.call", urls=["redis://:hunter2@db/0"], error=ValueError(f"bad {JWT}"))

        assert written.line["urls"] == ["redis://:***@db/0"]
        assert written.line["error"] == "bad eyJ***"

    def test_covers_a_secret_under_any_name(self, events, written):
        events.info("test.setting", value=Secret("hunter2"), values=(Secret("hunter2"),))

        assert (written.line["value"], written.line["values"]) == ("***", ["***"])

    def test_leaves_a_count_of_tokens(self, events, written):
        events.info("test.answer", prompt_tokens=12)

        assert written.line["prompt_tokens"] == 12

    def test_covers_the_text_of_an_exception(self, events, written):
        events.exception("test.failed", ValueError("at redis://:hunter2@db/0"))

        assert "hunter2" not in json.dumps(written.line)


class TestException:
    def test_keeps_the_traceback_and_the_fields(self, events, written):
        try:
            raise LookupError("no such order")
        except LookupError as error:
            events.exception("test.failed", error, order="7")

        assert (written.line["level"], written.line["order"]) == ("error", "7")
        assert written.line["error"].startswith("Traceback")
        assert written.line["error"].endswith("LookupError: no such order\n")

    def test_keeps_the_end_of_a_long_one(self, events, written):
        events.exception("test.failed", LookupError("x" * 1_000_000 + " the end"))

        assert len(written.line["error"]) <= TEXT_LIMIT_CHARS
        assert written.line["error"].endswith("the end\n")

    def test_keeps_any_text_short(self, events, logger, written):
        events.info("test.long", text="x" * 1_000_000)
        logger.warning("y" * 1_000_000)

        for line in written.lines:
            assert len(json.dumps(line)) < TEXT_LIMIT_CHARS + 200


class TestLineWriter:
    def test_writes_in_the_order_of_logging(self):
        stream = io.StringIO()
        writer = LineWriter(stream)

        for number in range(1000):
            writer.write(str(number).encode())
        writer.flush()

        assert stream.getvalue().splitlines() == [str(number) for number in range(1000)]

    def test_writes_by_itself(self):
        stream = Notifying()

        LineWriter(stream).write(b"line")

        assert stream.was_written.wait(10)
        assert stream.getvalue() == "line\n"

    def test_drops_the_oldest_when_nobody_takes_them(self):
        stream = Blocked()
        writer = LineWriter(stream)
        writer.write(b"first")
        assert stream.is_entered.wait(10)

        for number in range(QUEUE_LIMIT + 10):
            writer.write(str(number).encode())
        stream.may_go_on.set()
        writer.flush()

        assert stream.getvalue().splitlines() == [
            "first",
            *(str(number) for number in range(10, QUEUE_LIMIT + 10)),
        ]

    def test_goes_on_after_the_disk_was_full(self):
        stream = FullOnce()
        writer = LineWriter(stream)
        writer.write(b"lost")
        assert stream.was_full.wait(10)

        writer.write(b"kept")

        assert stream.was_written.wait(10)
        assert stream.getvalue() == "kept\n"


class Notifying(io.StringIO):
    """Says when something has been written and flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.was_written = threading.Event()

    def flush(self) -> None:
        self.was_written.set()


class Blocked(io.StringIO):
    """Takes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_entered = threading.Event()
        self.may_go_on = threading.Event()

    def write(self, text: str) -> int:
        self.is_entered.set()
        self.may_go_on.wait(10)
        return super().write(text)


class FullOnce(Notifying):
    """Has no space for the first write."""

    def __init__(self) -> None:
        super().__init__()
        self.was_full = threading.Event()

    def write(self, text: str) -> int:
        if not self.was_full.is_set():
            self.was_full.set()
            raise OSError("No space left on device")
        return super().write(text)


class TestConfigure:
    def test_takes_over_everything_that_is_logged(self, root):
        stream = io.StringIO()

        writer = log.configure("info", stream)
        log.get("auth").info("auth.login-refused")
        logging.getLogger("library").warning("careful")
        writer.flush()

        logged = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
        assert logged == ["auth.login-refused", "careful"]

    def test_leaves_out_what_is_below_the_level(self, root):
        stream = io.StringIO()

        writer = log.configure("warning", stream)
        log.get("auth").info("auth.login-refused")
        logging.getLogger("library").info("by the way")
        writer.flush()

        assert stream.getvalue() == ""
