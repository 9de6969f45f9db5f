"""What ``insula sandbox run`` shows of a script, and how it asks the person at the terminal."""

import asyncio
import os
import re
from typing import Final, Literal, TextIO

from app.kernel.errors import AppError

Stream = Literal["stdout", "stderr"]

LINE_LIMIT_BYTES: Final = 64 * 1024
ANSWER_LIMIT_BYTES: Final = 1024 * 1024
# Tabs, line ends and colours are shown by a terminal; everything else makes it do something.
OBEYED: Final = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-9;]{0,32})?\Z")


class NoAnswer(AppError):
    """Nobody is there to answer what a script asks a language model."""

    title = "No answer"


class Screen:
    """Standard output and error. A terminal is not made to do what untrusted code tells it."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._streams = {"stdout": out, "stderr": err}
        self._held = {"stdout": "", "stderr": ""}
        self._is_mid_line = {"stdout": False, "stderr": False}

    def show(self, stream: Stream, text: str) -> None:
        """Show what a script has printed, as it is where no terminal would obey it."""
        if self._streams[stream].isatty():
            text = self._held[stream] + text
            rest = UNFINISHED.search(text)
            self._held[stream] = rest[0] if rest else ""
            text = OBEYED.sub(_harmless, text[: rest.start()] if rest else text)
        self._write(stream, text)

    def say(self, text: str, *, prefix: str = "insula: ") -> None:
        """Say something of our own on standard error, in lines of its own."""
        is_shared = self._streams["stdout"].isatty() and self._streams["stderr"].isatty()
        if self._is_mid_line["stderr"] or (is_shared and self._is_mid_line["stdout"]):
            self._write("stderr", "\n")
            self._is_mid_line["stdout"] = self._is_mid_line["stdout"] and not is_shared
        self._write("stderr", OBEYED.sub(_harmless, f"{prefix}{text}\n"))

    def give(self, result: str) -> None:
        """Write a result as the last line of standard output."""
        if self._is_mid_line["stdout"]:
            self._write("stdout", "\n")
        self.show("stdout", result + "\n")

    def _write(self, stream: Stream, text: str) -> None:
        if not text:
            return
        out = self._streams[stream]
        encoding = out.encoding or "utf-8"
        out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        out.flush()
        self._is_mid_line[stream] = not text.endswith("\n")


class Person:
    """Somebody who answers at the terminal ``stdin``, if it is one."""

    def __init__(self, stdin: TextIO, screen: Screen) -> None:
        self._stdin = stdin
        self._screen = screen

    async def answer(self, prompt: str, model: str) -> str:
        """Show a prompt and read one paragraph; ``NoAnswer`` where there is none."""
        self._screen.say(f"the script asks a language model ({model}):")
        self._screen.say(prompt, prefix="")
        if not self._stdin.isatty():
            raise NoAnswer(
                "The script asks a language model, and there is no terminal to answer at. "
                "--llm gateway lets the server's models answer."
            )
        self._screen.say("type the answer; an empty line ends it:")
        text = await _paragraph(self._stdin.fileno())
        if not text.strip():
            raise NoAnswer("The script asked a language model, and nobody answered.")
        return text


async def _paragraph(descriptor: int) -> str:
    """Lines up to an empty one, or to the end of what is typed. Empty ones before do not count."""
    typed = bytearray()
    while len(typed) < ANSWER_LIMIT_BYTES:
        await _until_readable(descriptor)
        line = os.read(descriptor, LINE_LIMIT_BYTES)
        if not line or (typed and not line.strip()):
            break
        typed += line if line.strip() else b""
    return typed.decode(errors="replace").rstrip("\n")


async def _until_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _harmless(found: re.Match[str]) -> str:
    return found[0] if len(found[0]) > 1 else "?"
