"""What a script prints, on its way to those who follow it and to those who ask afterwards."""

import asyncio
from typing import Final, Literal

from app.kernel.errors import AppError, Unavailable
from app.modules.runs.api import News, Turn
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.domain.output import OutputStream
from app.modules.sandbox.domain.redaction import Redactor
from app.modules.sandbox.ports import Printed

# A script that ends sooner than this is told in one piece, and costs no transaction of its own.
LIVE_AFTER_S: Final = 0.1
# One that prints for long is told more slowly: after so many times half as often, down to this.
SLOWER_AFTER: Final = 50
LIVE_EVERY_LIMIT_S: Final = 2.0
# What is printed after so many events is told with the result.
EVENTS_LIMIT: Final = 2000
PIECE_LIMIT_CHARS: Final = 64 * 1024
KB: Final = 1024
MB: Final = 1024 * KB

Stream = Literal["stdout", "stderr"]
STREAMS: Final[tuple[Stream, Stream]] = ("stdout", "stderr")


class OutputFlood(AppError):
    """A script has printed more than it may."""

    title = "Output flood"


class Output:
    """Both streams: redacted, kept in part, and told in the run's log while the script runs.

    What the log does not have of them is told with the result, which has all that is kept.
    """

    def __init__(self, turn: Turn, redactor: Redactor, limits: Limits) -> None:
        self._turn = turn
        self._limits = limits
        self._streams = {
            "stdout": OutputStream(redactor, limits.stdout_kb * KB),
            "stderr": OutputStream(redactor, limits.stderr_kb * KB),
        }
        self._room = {"stdout": limits.stdout_kb * KB, "stderr": limits.stderr_kb * KB}
        self._untold: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._events = 0
        self._tellings = 0
        self._is_silent = False
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None

    def feed(self, printed: Printed) -> None:
        stream = self._streams[printed.stream]
        self._note(printed.stream, stream.feed(printed.data))
        if sum(one.raw_bytes for one in self._streams.values()) > self._limits.output_mb * MB:
            raise OutputFlood(f"The script printed more than {self._limits.output_mb} MiB.")

    def finish(self) -> None:
        """No more comes."""
        for name in STREAMS:
            self._note(name, self._streams[name].finish())
        self._is_silent = True
        self._stop_timer()

    async def settle(self) -> None:
        """Wait for what is being told: a run's log is written by one at a time."""
        self._stop_timer()
        if self._telling is not None:
            await self._telling
            self._telling = None

    async def tell(self) -> None:
        """Have the log say all that was printed up to here."""
        await self.settle()
        if any(self._untold.values()):
            await self._tell()

    def text(self, name: Stream) -> str:
        return self._streams[name].text

    def is_truncated(self, name: Stream) -> bool:
        return self._streams[name].is_truncated

    def _note(self, name: str, text: str) -> None:
        text = text[: self._room[name]]
        if not text or self._is_silent:
            return
        self._room[name] -= len(text)
        self._untold[name].append(text)
        self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None and not self._is_silent:
            after_s = tell_after_s(self._tellings)
            self._timer = asyncio.get_running_loop().call_later(after_s, self._tell_soon)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell_soon(self) -> None:
        self._timer = None
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())
        else:
            self._start_timer()

    async def _tell(self) -> None:
        texts = {name: "".join(self._untold[name]) for name in STREAMS}
        news = [piece for name in STREAMS for piece in _pieces(name, texts[name])]
        self._untold = {name: [] for name in STREAMS}
        self._tellings += 1
        self._events += len(news)
        if self._events > EVENTS_LIMIT:
            self._is_silent = True
            return
        try:
            await self._turn.say(*news)
        except Unavailable:
            # Nothing may be left out: what is told next begins where the log ends.
            for name in STREAMS:
                self._untold[name].insert(0, texts[name])
            self._start_timer()
        except AppError:
            # Who lost the run learns it elsewhere.
            self._is_silent = True


def tell_after_s(tellings: int) -> float:
    """How long to wait for more, where the log was told something so many times."""
    slower: float = 2 ** (tellings // SLOWER_AFTER)
    return min(LIVE_AFTER_S * slower, LIVE_EVERY_LIMIT_S)


def _pieces(name: str, text: str) -> list[News]:
    starts = range(0, len(text), PIECE_LIMIT_CHARS)
    return [News(name, {"text": text[at : at + PIECE_LIMIT_CHARS]}) for at in starts]
