"""``insula sandbox run`` against a server that keeps to its script."""

import argparse
import asyncio
import base64
import io
import json
import os
import pty
import signal
import sys
from collections.abc import Iterator
from textwrap import dedent

import pytest
from aiohttp import web

from app.modules.sandbox.adapters.cli import add_arguments, command
from app.modules.sandbox.adapters.remote import (
    KeyRefused,
    RemoteSandbox,
    RequestRefused,
    ServerUnreachable,
)
from app.modules.sandbox.adapters.screen import NoAnswer
from app.modules.sandbox.adapters.session import ArtifactMisnamed
from tests.house import free_port
from tests.modules.sandbox.scripted import (
    DROP,
    ID,
    PLACE,
    UNTIL_ANSWERED,
    UNTIL_CANCELLED,
    Scripted,
    asked,
    ended,
    frame,
)

KEY = "a-key-that-nobody-prints"


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser("insula sandbox")
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("print('hello')")
    return str(path)


async def run(server: Scripted, *words: str, **environ: str) -> int:
    """The exit status of ``insula sandbox run``."""
    async with server.open() as url:
        with pytest.raises(SystemExit) as left:
            await command({"INSULA_API_KEY": KEY, **environ}, parse("run", *words, "--url", url))
    return left.value.code


class TestRun:
    async def test_writes_each_stream_of_the_script_to_its_own(self, script, capsys):
        server = Scripted(
            [
                frame("status", 1, status="pending"),
                frame("status", 2, status="running"),
                frame("stdout", 3, text="one\n"),
                frame("stderr", 4, text="two\n"),
                b": keep-alive\n\n",
                frame("stdout", 5, text="\x1b[31mthree"),
                ended(),
            ]
        )

        status = await run(server, script)

        assert status == 0
        assert capsys.readouterr() == ("one\n\x1b[31mthree", "two\n")
        assert server.cancelled == []

    async def test_writes_the_result_as_the_last_line_of_standard_output(self, script, capsys):
        server = Scripted([frame("stdout", text="no end"), ended(result={"sum": 3, "of": [1, 2]})])

        status = await run(server, script)

        assert status == 0
        printed = capsys.readouterr().out
        assert printed.startswith("no end\n")
        assert json.loads(printed.splitlines()[-1]) == {"sum": 3, "of": [1, 2]}

    @pytest.mark.parametrize(("status", "code"), [("error", 1), ("timeout", 124)])
    async def test_exits_with_how_it_ended_and_says_why(self, script, capsys, status, code):
        server = Scripted([ended(status, error="ZeroDivisionError: \x1b[2Jdivision\n")])

        left = await run(server, script)

        assert left == code
        assert capsys.readouterr() == ("", "insula: ZeroDivisionError: ?[2Jdivision\n")

    async def test_sends_what_it_was_given(self, script, tmp_path):
        (tmp_path / "data.csv").write_bytes(b"a,b\n\xff")
        (tmp_path / "memory.json").write_text('{"user": {"name": "Ada"}}')
        server = Scripted([ended()])
        words = ["--project", "sums", "--timeout", "9", "--llm", "gateway"]
        words += ["--setting", "unit=m", "--setting", "expression=a=b", "--setting", "empty="]
        words += ["--file", str(tmp_path / "data.csv"), "--memory", str(tmp_path / "memory.json")]

        await run(server, script, *words)

        assert server.orders == [
            {
                "code": "print('hello')",
                "project": "sums",
                "timeout": 9,
                "settings": {"unit": "m", "expression": "a=b", "empty": ""},
                "memory": {"user": {"name": "Ada"}},
                "files": [
                    {
                        "name": "data.csv",
                        "content_base64": base64.b64encode(b"a,b\n\xff").decode(),
                    }
                ],
                "llm": "gateway",
            }
        ]

    async def test_reads_the_script_from_standard_input(self, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("print('ü')".encode())))
        server = Scripted([ended()])

        await run(server, "-")

        assert server.orders[0]["code"] == "print('ü')"

    @pytest.mark.parametrize(
        ("key", "environ", "sent"),
        [
            ("given", {"INSULA_API_KEY": "named"}, "Bearer given"),
            ("", {"INSULA_API_KEY": "named", "APP_BOOTSTRAP_KEY": "owner"}, "Bearer named"),
            ("", {"INSULA_API_KEY": "", "APP_BOOTSTRAP_KEY": "owner"}, "Bearer owner"),
            ("", {"INSULA_API_KEY": ""}, ""),
        ],
    )
    async def test_asks_with_the_key_that_is_nearest(self, script, key, environ, sent):
        server = Scripted([ended()])

        await run(server, script, "--key", key, **environ)

        assert server.keys == [sent]

    async def test_says_what_the_script_changed_in_its_memory(self, script, capsys):
        server = Scripted([ended(memory_updates={"user.name": "Ada"})])

        await run(server, script)

        assert capsys.readouterr().err == 'insula: memory updates: {"user.name":"Ada"}\n'

    async def test_shows_the_end_of_an_output_that_was_too_long(self, script, capsys):
        kept = "01234\n[... 10 bytes left out ...]\n56789"
        server = Scripted(
            [frame("stdout", 1, text="0123401234"), ended(stdout=kept, stdout_truncated=True)]
        )

        await run(server, script)

        assert capsys.readouterr().out == "0123401234\n[... 5 bytes left out ...]\n56789"

    async def test_shows_a_short_one_that_lost_its_middle_once(self, script, capsys):
        kept = "01234\n[... 10 bytes left out ...]\n56789"
        server = Scripted([frame("stdout", text=kept), ended(stdout=kept, stdout_truncated=True)])

        await run(server, script)

        assert capsys.readouterr().out == kept


class TestConnection:
    async def test_that_is_lost_is_taken_up_behind_the_last_event(self, script, capsys):
        server = Scripted(
            [frame("stdout", 1, text="one\n"), frame("stdout", 2, text="two\n"), DROP],
            [frame("stdout", 3, text="three\n"), b"event: resu"],
            [ended(result=4)],
        )

        status = await run(server, script)

        assert status == 0
        assert server.last_ids == ["", "2", "3"]
        assert capsys.readouterr().out == "one\ntwo\nthree\n4\n"

    async def test_that_is_lost_before_the_result_shows_nothing_twice(self, script, capsys):
        server = Scripted(
            [frame("stdout", 1, text="one\n"), frame("stdout", text="two\n"), DROP],
            [frame("stdout", text="two\n"), ended()],
        )

        await run(server, script)

        assert capsys.readouterr().out == "one\ntwo\n"

    async def test_that_is_lost_with_the_start_starts_nothing_twice(self, script):
        server = Scripted([ended()], refusals=[DROP])

        status = await run(server, script)

        assert status == 0
        assert len(server.once) == 2
        assert len(set(server.once)) == 1

    async def test_that_comes_back_no_more_is_given_up(self):
        server = Scripted(*[[frame("stdout", 1, text="one"), DROP], [DROP], [DROP], [DROP]])

        async with server.open() as url:
            sandbox = RemoteSandbox(url, KEY, PLACE, pauses_s=(0.0, 0.0))
            with pytest.raises(ServerUnreachable, match="does not answer"):
                [event async for event in sandbox.events(ID)]
            await sandbox.close()

        assert server.last_ids == ["", "1", "1"]

    async def test_to_nobody_is_not_tried_again(self, script):
        options = parse("run", script, "--url", f"http://127.0.0.1:{free_port()}")

        with pytest.raises(ServerUnreachable, match="does not answer"):
            await command({}, options)

    async def test_to_no_url_is_not_tried_again(self, script):
        with pytest.raises(ServerUnreachable, match="does not answer"):
            await command({}, parse("run", script, "--url", "127.0.0.1:8000"))

    async def test_with_a_key_that_no_header_can_carry_says_nothing_of_it(self, script):
        server = Scripted([ended()])

        async with server.open() as url:
            options = parse("run", script, "--key", f"{KEY}\nx: y", "--url", url)
            with pytest.raises(ServerUnreachable) as refused:
                await command({}, options)

        assert KEY not in str(refused.value)

    @pytest.mark.parametrize(
        ("answer", "kind", "told"),
        [
            ((401, '{"detail": "No."}'), KeyRefused, "give one with --key"),
            ((404, '{"detail": "There is no project sums."}'), RequestRefused, "no project sums"),
            ((503, '{"detail": "Nothing isolates."}'), RequestRefused, "Nothing isolates"),
            ((302, "<html>"), RequestRefused, "answered 302"),
            ((500, "<html>"), RequestRefused, "answered 500"),
            ((202, "<html>"), ServerUnreachable, "is no sandbox"),
            ((202, "{}"), ServerUnreachable, "is no sandbox"),
        ],
    )
    async def test_to_who_refuses_says_why(self, script, capsys, answer, kind, told):
        refusal = web.Response(status=answer[0], text=answer[1], headers={"location": "/there"})
        server = Scripted(refusals=[refusal])

        async with server.open() as url:
            with pytest.raises(kind, match=told) as refused:
                await command({"INSULA_API_KEY": KEY}, parse("run", script, "--url", url))

        assert KEY not in str(refused.value) + "".join(capsys.readouterr())

    @pytest.mark.parametrize(
        "said",
        [frame("stdout", 1, words="?"), frame("result", status="fine"), b"event: result\n\xff\n"],
    )
    async def test_to_a_stranger_says_so(self, script, said):
        server = Scripted([said])

        async with server.open() as url:
            with pytest.raises(ServerUnreachable, match="is no sandbox"):
                await command({}, parse("run", script, "--url", url))

        assert server.cancelled == [ID]


@pytest.fixture
def keyboard(monkeypatch) -> Iterator[int]:
    """Makes standard input a terminal, and is the other end of it."""
    own, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield own
    os.close(own)


class TestQuestion:
    async def test_is_answered_by_a_paragraph_at_the_terminal(self, script, keyboard, capsys):
        server = Scripted([asked(7, "Why\x1b[2J so?"), UNTIL_ANSWERED, ended(result=1)])
        os.write(keyboard, "\nBecause it\nïs.\n\nnot this\n".encode())

        status = await run(server, script)

        assert status == 0
        assert server.answers == [{"response": "Because it\nïs.", "request_id": "7"}]
        shown = capsys.readouterr()
        assert "asks a language model (default):\nWhy?[2J so?\n" in shown.err
        assert shown.out == "1\n"

    async def test_that_is_asked_before_a_connection_is_lost_is_asked_once(self, script, keyboard):
        server = Scripted([asked(7), DROP], [UNTIL_ANSWERED, ended()])
        os.write(keyboard, b"Yes.\n\n")

        status = await run(server, script)

        assert status == 0
        assert server.answers == [{"response": "Yes.", "request_id": "7"}]

    async def test_of_a_script_without_a_terminal_cancels_it(self, script, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO("Yes.\n\n"))
        server = Scripted([asked(7), UNTIL_CANCELLED])

        async with server.open() as url:
            with pytest.raises(NoAnswer, match="--llm gateway"):
                await command({}, parse("run", script, "--url", url))

        assert server.cancelled == [ID]

    async def test_that_nobody_answers_cancels_the_script(self, script, keyboard):
        server = Scripted([asked(7), UNTIL_CANCELLED])
        os.write(keyboard, b"\x04")

        async with server.open() as url:
            with pytest.raises(NoAnswer, match="nobody answered"):
                await command({}, parse("run", script, "--url", url))

        assert server.cancelled == [ID]
        assert server.answers == []

    async def test_that_was_answered_elsewhere_is_asked_no_more(self, script, keyboard, capsys):
        server = Scripted(
            [
                frame("status", 1, status="awaiting_llm"),
                asked(2),
                frame("status", 3, status="awaiting_llm"),
                frame("status", 4, status="running"),
                ended(),
            ]
        )

        status = await run(server, script)

        assert status == 0
        assert "no longer waits for this answer" in capsys.readouterr().err

    async def test_whose_answer_comes_too_late_does_no_harm(self, script, keyboard, capsys):
        server = Scripted([asked(7), UNTIL_ANSWERED, ended()], respond_status=409)
        os.write(keyboard, b"Yes.\n\n")

        status = await run(server, script)

        assert status == 0
        assert server.cancelled == []

    async def test_that_the_server_answers_is_not_asked(self, script, capsys):
        server = Scripted([asked(7), frame("status", 8, status="running"), ended()])

        status = await run(server, script, "--llm", "gateway")

        assert status == 0
        assert capsys.readouterr() == ("", "")


class TestArtifacts:
    async def test_are_saved_in_the_folder(self, script, tmp_path):
        names = {"a b.csv": b"1,2", "ü?.bin": b"\0" * 70_000}
        listed = [{"name": name, "size_bytes": len(data)} for name, data in names.items()]
        server = Scripted([ended("error", artifacts=listed)], files=names)

        status = await run(server, script, "--artifacts", str(tmp_path / "new" / "folder"))

        assert status == 1
        saved = {path.name: path.read_bytes() for path in (tmp_path / "new/folder").iterdir()}
        assert saved == names

    async def test_take_the_place_of_a_link_and_not_of_what_it_shows(self, script, tmp_path):
        (tmp_path / "precious").write_bytes(b"mine")
        (tmp_path / "a.csv").symlink_to(tmp_path / "precious")
        listed = [{"name": "a.csv", "size_bytes": 3}]
        server = Scripted([ended(artifacts=listed)], files={"a.csv": b"1,2"})

        await run(server, script, "--artifacts", str(tmp_path))

        assert (tmp_path / "precious").read_bytes() == b"mine"
        assert (tmp_path / "a.csv").read_bytes() == b"1,2"

    @pytest.mark.parametrize("name", ["../up", "/etc/passwd", "..", "", "a\\b"])
    async def test_are_not_saved_elsewhere(self, script, tmp_path, name):
        server = Scripted([ended(artifacts=[{"name": name, "size_bytes": 1}])])

        async with server.open() as url:
            options = parse("run", script, "--artifacts", str(tmp_path / "in"), "--url", url)
            with pytest.raises(ArtifactMisnamed):
                await command({}, options)

        assert list((tmp_path / "in").iterdir()) == []

    async def test_of_another_size_are_not_saved(self, script, tmp_path):
        listed = [{"name": "a.csv", "size_bytes": 2}]
        server = Scripted([ended(artifacts=listed)], files={"a.csv": b"1,2"})

        async with server.open() as url:
            options = parse("run", script, "--artifacts", str(tmp_path / "in"), "--url", url)
            with pytest.raises(ServerUnreachable):
                await command({}, options)

        assert list((tmp_path / "in").iterdir()) == []

    async def test_are_named_where_nobody_wants_them(self, script, capsys):
        server = Scripted([ended(artifacts=[{"name": "a.csv", "size_bytes": 3}])])

        await run(server, script)

        assert "files were saved (a.csv); --artifacts" in capsys.readouterr().err


COMMAND = dedent("""
    import argparse, asyncio, os, sys
    from app.modules.sandbox.adapters.cli import add_arguments, command
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    asyncio.run(command({}, parser.parse_args(sys.argv[1:])))
""")


@pytest.mark.slow
class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_that_is_interrupted_cancels_the_execution(self, script, number):
        server = Scripted([frame("stdout", 1, text="begun\n"), UNTIL_CANCELLED])

        async with server.open() as url:
            process = await start(script, "--url", url)
            begun = await process.stdout.readline()
            process.send_signal(number)
            _, said = await process.communicate()

        assert begun == b"begun\n"
        assert process.returncode == 128 + number
        assert server.cancelled == [ID]
        assert said == b"insula: the execution is cancelled.\n"

    async def test_that_nobody_reads_any_more_cancels_the_execution(self, script):
        piece = "x" * 65_536
        flood = [frame("stdout", number, text=piece) for number in range(1, 20)]
        server = Scripted([*flood, UNTIL_CANCELLED])

        async with server.open() as url:
            process = await start(script, "--url", url)
            await process.stdout.readexactly(10)
            process.stdout._transport.close()
            said = await process.stderr.read()
            await process.wait()

        assert process.returncode == 128 + signal.SIGPIPE
        assert server.cancelled == [ID]
        assert said == b"insula: the execution is cancelled.\n"


async def start(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMAND, "run", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


class TestArguments:
    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["no-such.py"], "No such file"),
            (["{binary}"], "is not UTF-8"),
            (["{script}", "--timeout", "0"], "from 1 to 600"),
            (["{script}", "--timeout", "601"], "from 1 to 600"),
            (["{script}", "--timeout", "a"], "from 1 to 600"),
            (["{script}", "--setting", "name"], "NAME=VALUE"),
            (["{script}", "--setting", "=value"], "NAME=VALUE"),
            (["{script}", "--file", "no-such.csv"], "No such file"),
            (["{script}", "--memory", "{script}"], "no JSON object"),
            (["{script}", "--llm", "nobody"], "invalid choice"),
        ],
    )
    def test_that_are_wrong_are_refused(self, script, tmp_path, capsys, words, told):
        (tmp_path / "binary").write_bytes(b"\xff")
        places = {"script": script, "binary": tmp_path / "binary"}

        with pytest.raises(SystemExit) as left:
            parse("run", *[word.format(**places) for word in words])

        assert left.value.code == 2
        assert told in capsys.readouterr().err

    async def test_that_name_two_files_alike_are_refused(self, script, tmp_path, capsys):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "script.py").touch()
        files = ["--file", script, "--file", str(tmp_path / "other" / "script.py")]

        with pytest.raises(SystemExit) as left:
            await command({}, parse("run", script, *files))

        assert left.value.code == 2
        assert "the same name" in capsys.readouterr().err
