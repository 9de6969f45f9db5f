"""What ``insula sandbox run`` reads of a server, and what it lets a terminal see."""

import io

import pytest

from app.modules.sandbox.adapters.remote import EventReader, ServerEvent
from app.modules.sandbox.adapters.screen import Screen
from app.modules.sandbox.adapters.session import unseen


class TestEvents:
    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_are_found_in_pieces_of_any_size(self, size):
        said = b": hello\n\nid: 1\nevent: stdout\ndata: {}\n\nevent:a\r\ndata: b\r\ndata:c\r\n\r\n"
        reader = EventReader()

        found = [
            event for at in range(0, len(said), size) for event in reader.feed(said[at : at + size])
        ]

        assert found == [ServerEvent("stdout", b"{}", "1"), ServerEvent("a", b"b\nc")]


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestScreen:
    def test_lets_no_script_command_a_terminal(self):
        out = FakeTerminal()
        screen = Screen(out, io.StringIO())

        for piece in ("a\x1b", "[3", "1mred\x1b[", "2J\x07\x9b1A\tb\r\n", "\x1b]0;title\x07"):
            screen.show("stdout", piece)

        assert out.getvalue() == "a\x1b[31mred?[2J??1A\tb\r\n?]0;title?"

    def test_leaves_a_file_what_it_gets(self):
        out = io.StringIO()

        Screen(out, io.StringIO()).show("stdout", "\x1b[2J\x07")

        assert out.getvalue() == "\x1b[2J\x07"

    def test_says_its_own_on_a_line_of_its_own(self):
        terminal = FakeTerminal()
        screen = Screen(terminal, terminal)

        screen.show("stdout", "no end")
        screen.say("something")

        assert terminal.getvalue() == "no end\ninsula: something\n"

    def test_writes_what_an_encoding_has_no_letter_for(self):
        raw = io.BytesIO()
        out = io.TextIOWrapper(raw, encoding="ascii")

        Screen(out, io.StringIO()).show("stdout", "ü")

        assert raw.getvalue() == b"\\xfc"


class TestUnseen:
    KEPT = "0123\n[... 4 bytes left out ...]\n89ab"

    @pytest.mark.parametrize(
        ("told_bytes", "rest"),
        [
            (4, "\n[... 4 bytes left out ...]\n89ab"),
            (6, "\n[... 2 bytes left out ...]\n89ab"),
            (8, "89ab"),
            (9, "9ab"),
            (12, ""),
        ],
    )
    def test_is_what_comes_behind_what_was_told(self, told_bytes, rest):
        assert unseen(self.KEPT, told_bytes) == rest

    def test_of_what_lost_nothing_is_nothing(self):
        assert unseen("0123", 2) == ""
