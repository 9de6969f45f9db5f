"""What ``insula top`` shows: frames of text from what a server has counted.

A frame is about a span of time: from the reading before to the reading after it, or since the
server's start where there is none before.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeVar

import msgspec

Style = Literal["", "bold", "dim", "green", "red", "yellow"]

SGR: Final[dict[Style, str]] = {
    "bold": "1",
    "dim": "2",
    "green": "32",
    "red": "31",
    "yellow": "33",
}
STATE_STYLES: Final[dict[str, Style]] = {"closed": "green", "half-open": "yellow", "open": "red"}
HOME: Final = "\x1b[H"
CLEAR_LINE: Final = "\x1b[K"
CLEAR_BELOW: Final = "\x1b[J"
GAP: Final = 2
LEAST_NAME_CHARS: Final = 8
MODELS_LIMIT: Final = 10
FAILURES_LIMIT: Final = 5
UNKNOWN: Final = "-"
UNIT_NANOS: Final = 1_000_000_000
MAGNITUDES: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))

K = TypeVar("K")


class Buckets(msgspec.Struct, frozen=True):
    """A histogram: ``counts[i]`` observations were ``bounds[i]`` at most. No bounds, no counts."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    @property
    def count(self) -> float:
        return self.counts[-1] if self.counts else 0.0

    def plus(self, other: "Buckets") -> "Buckets":
        if not self.counts or not other.counts:
            return self if self.counts else other
        pairs = zip(self.counts, other.counts, strict=True)
        return Buckets(self.bounds, tuple(one + another for one, another in pairs))

    def since(self, before: "Buckets") -> "Buckets":
        """What came after ``before``; everything, if the server has begun anew since."""
        if before.bounds != self.bounds or before.count > self.count:
            return self
        pairs = zip(self.counts, before.counts, strict=True)
        return Buckets(self.bounds, tuple(one - another for one, another in pairs))

    def quantile(self, share: float) -> float | None:
        """What ``share`` of the observations do not exceed, straight between two bounds.

        Beyond the last finite bound it is that bound; ``None`` of nothing.
        """
        rank = share * self.count
        below_bound = below = 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= rank and count > below:
                if bound == float("inf"):
                    return below_bound
                return below_bound + (bound - below_bound) * (rank - below) / (count - below)
            below_bound, below = bound, count
        return None


class Counted(msgspec.Struct, frozen=True):
    """What a server has counted since its start.

    ``calls``: seconds by model, upstream and outcome. ``tokens``: by model and direction.
    ``started_at_s`` is in seconds since 1970, where one process can tell it for all.
    """

    calls: dict[tuple[str, str, str], Buckets] = {}
    overhead: Buckets = Buckets()
    tokens: dict[tuple[str, str], float] = {}
    started_at_s: float | None = None


class UpstreamLine(msgspec.Struct, frozen=True):
    """One upstream, as ``GET /api/v1/routing/upstreams`` has it."""

    name: str
    state: str
    in_flight: int
    queued: int
    limit: int
    calls: int
    failures: int
    first_token_ms: float | None = None
    plain_ms: float | None = None


class CallLine(msgspec.Struct, frozen=True):
    """One call, as ``GET /api/v1/usage`` has it."""

    model: str
    upstream: str
    outcome: str
    status: int
    started_at_ms: int
    duration_ms: int
    is_cached: bool = False


class DayLine(msgspec.Struct, frozen=True):
    """One day of calls, as ``GET /api/v1/usage?by=day`` has it."""

    costs_nanos: dict[str, int] = {}
    unpriced_calls: int = 0


class Reading(msgspec.Struct, frozen=True):
    """Everything that was read of a server at ``at_s``, in seconds since 1970.

    ``counted`` is ``None`` where the key may not read the metrics. ``recent`` has the newest call
    first; ``today`` and it are about the calls of the key's owner.
    """

    at_s: float
    counted: Counted | None
    upstreams: Sequence[UpstreamLine]
    recent: Sequence[CallLine]
    today: DayLine


class Size(msgspec.Struct, frozen=True):
    """A terminal's, in characters; ``lines`` is 0 where there is no end to them."""

    columns: int
    lines: int = 0


class Cell(msgspec.Struct, frozen=True):
    text: str
    style: Style = ""


Line = Sequence[Cell]


class Section(msgspec.Struct, frozen=True):
    """A table, the first column to the left and the others to the right."""

    head: tuple[str, ...]
    rows: Sequence[Line]

    def lines(self, most: int, columns: int) -> list[Line]:
        """Up to ``most`` rows below the head, which tells how many there are if not all."""
        rows = self.rows[:most]
        title = self.head[0]
        if len(rows) < len(self.rows):
            title = f"{title} ({len(rows)} of {len(self.rows)})"
        table = [[Cell(text, "dim") for text in (title, *self.head[1:])], *rows]
        widths = [max(len(line[at].text) for line in table) for at in range(len(self.head))]
        others = sum(widths[1:]) + GAP * (len(widths) - 1)
        widths[0] = min(widths[0], max(columns - others, LEAST_NAME_CHARS))
        return [_padded(line, widths) for line in table]


def frame(
    url: str, before: Reading | None, after: Reading, size: Size, *, note: str = ""
) -> list[Line]:
    """The lines that show a server. ``note``: what is wrong at the moment, if anything is."""
    lines = _head(url, before, after, note)
    sections = [_upstreams(after), _models(after), _failures(after)]
    left = size.lines - len(lines) - 2 * len(sections)
    for index, section in enumerate(sections):
        wanted = len(section.rows)
        shown = min(wanted, max(left // (len(sections) - index), 1)) if size.lines else wanted
        left -= shown
        lines += [[], *section.lines(shown, size.columns)]
    lines = lines[: size.lines] if size.lines else lines
    return [_clipped(line, size.columns) for line in lines]


def text(lines: Sequence[Line], *, is_coloured: bool) -> str:
    """Lines as text, without a newline at the end."""
    return "\n".join(_painted(line, is_coloured=is_coloured) for line in lines)


def screen(lines: Sequence[Line], *, is_coloured: bool) -> str:
    """What puts the lines over those of the frame before, with nothing blank in between."""
    shown = text(lines, is_coloured=is_coloured).replace("\n", f"{CLEAR_LINE}\n")
    return f"{HOME}{shown}{CLEAR_LINE}{CLEAR_BELOW}"


def _head(url: str, before: Reading | None, after: Reading, note: str) -> list[Line]:
    counted = after.counted or Counted()
    earlier = (before.counted if before is not None else None) or Counted()
    seconds = _seconds(before, after)
    calls = _all(counted.calls).since(_all(earlier.calls))
    overhead = counted.overhead.since(earlier.overhead)
    told, said = (
        _grown(_direction(earlier, kind), _direction(counted, kind)) for kind in ("input", "output")
    )
    span = "since the start" if before is None else f"last {after.at_s - before.at_s:.0f} s"
    problem = note or ("" if after.counted else "This key may not read the metrics.")
    lines: list[Line] = [
        [Cell("insula top", "bold"), Cell(f"  {_clean(url)}  {span}", "dim")],
        [
            *_named("calls/s", _rate(calls.count, seconds)),
            *_named("in flight", str(sum(one.in_flight for one in after.upstreams))),
            *_named("queued", str(sum(one.queued for one in after.upstreams))),
            *_named("cached", _cached(after.recent)),
        ],
        [*_spread("latency", calls), *_spread("overhead", overhead)],
        [
            *_named("tokens/s in", _rate(told, seconds)),
            *_named("out", _rate(said, seconds)),
            *_named("cost today", _cost(after.today)),
        ],
    ]
    return [*lines, [Cell(_clean(problem), "red")]] if problem else lines


def _upstreams(after: Reading) -> Section:
    rows = [
        [
            Cell(_clean(one.name)),
            Cell(_clean(one.state), STATE_STYLES.get(one.state, "")),
            Cell(f"{one.in_flight}/{one.limit}"),
            Cell(str(one.queued), "yellow" if one.queued else ""),
            Cell(_duration(_as_s(one.first_token_ms))),
            Cell(_duration(_as_s(one.plain_ms))),
            Cell(_short(one.calls)),
            Cell(_short(one.failures), "red" if one.failures else ""),
        ]
        for one in after.upstreams
    ]
    head = ("UPSTREAM", "STATE", "IN FLIGHT", "QUEUE", "1ST TOKEN", "PLAIN", "CALLS", "FAILED")
    return Section(head, rows)


def _models(after: Reading) -> Section:
    """The models with the most tokens since the start."""
    counted = after.counted or Counted()
    calls: dict[str, Buckets] = {}
    for (model, _, _), buckets in counted.calls.items():
        calls[model] = calls.get(model, Buckets()).plus(buckets)

    def tokens(model: str, kind: str) -> float:
        return counted.tokens.get((model, kind), 0.0)

    def weight(model: str) -> tuple[float, float, str]:
        return -tokens(model, "input") - tokens(model, "output"), -calls[model].count, model

    rows = [
        [
            Cell(_clean(model)),
            Cell(_short(calls[model].count)),
            Cell(_short(tokens(model, "input"))),
            Cell(_short(tokens(model, "output"))),
            Cell(_duration(calls[model].quantile(0.5))),
            Cell(_duration(calls[model].quantile(0.95))),
        ]
        for model in sorted(calls, key=weight)[:MODELS_LIMIT]
    ]
    return Section(("MODEL, SINCE THE START", "CALLS", "IN", "OUT", "P50", "P95"), rows)


def _failures(after: Reading) -> Section:
    failed = [one for one in after.recent if one.outcome == "failed"]
    rows = [
        [
            Cell(_clean(one.model)),
            Cell(_clean(one.upstream)),
            Cell(str(one.status), "red"),
            Cell(_duration(one.duration_ms / 1000)),
            Cell(f"{_duration(max(after.at_s - one.started_at_ms / 1000, 0.0))} ago"),
        ]
        for one in failed[:FAILURES_LIMIT]
    ]
    return Section(("LAST FAILURES", "UPSTREAM", "STATUS", "AFTER", "WHEN"), rows)


def _seconds(before: Reading | None, after: Reading) -> float | None:
    """The length of the span that a frame is about, if it is known."""
    if before is not None:
        return after.at_s - before.at_s
    started_at_s = after.counted.started_at_s if after.counted else None
    return None if started_at_s is None else after.at_s - started_at_s


def _all(calls: Mapping[K, Buckets]) -> Buckets:
    found = Buckets()
    for buckets in calls.values():
        found = found.plus(buckets)
    return found


def _direction(counted: Counted, kind: str) -> float:
    return sum(count for (_, direction), count in counted.tokens.items() if direction == kind)


def _grown(before: float, after: float) -> float:
    """By how much a counter has grown; one that has shrunk has begun anew."""
    return after - before if after >= before else after


def _rate(count: float, seconds: float | None) -> str:
    return UNKNOWN if seconds is None or seconds <= 0 else _short(count / seconds)


def _named(name: str, value: str) -> Line:
    return [Cell(f"{name} ", "dim"), Cell(f"{value:<8}", "bold"), Cell(" " * GAP)]


def _spread(name: str, buckets: Buckets) -> Line:
    values = [
        Cell(f"{label} {_duration(buckets.quantile(share)):<9}")
        for label, share in (("p50", 0.5), ("p95", 0.95))
    ]
    return [Cell(f"{name} ", "dim"), *values, Cell(" " * GAP)]


def _cached(recent: Sequence[CallLine]) -> str:
    if not recent:
        return UNKNOWN
    return f"{100 * sum(one.is_cached for one in recent) / len(recent):.0f} %"


def _cost(today: DayLine) -> str:
    """Every currency to a hundredth of a cent; and the calls whose cost nobody knows."""
    found = [
        f"{n / UNIT_NANOS:.4f} {_clean(name)}" for name, n in sorted(today.costs_nanos.items())
    ]
    if today.unpriced_calls:
        found.append(f"{today.unpriced_calls} calls without a price")
    return ", ".join(found) or "0"


def _short(number: float) -> str:
    """``0.4``, ``12``, ``3.4k``, ``120k``."""
    for size, unit in MAGNITUDES:
        if number >= size:
            return f"{number / size:.{0 if number >= 100 * size else 1}f}{unit}"
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.{0 if seconds >= 0.01 else 2}f} ms"
    if seconds < 60:
        return f"{seconds:.{0 if seconds >= 10 else 2}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _as_s(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _clean(name: str) -> str:
    """A name that others chose, without what a terminal would obey or show two columns wide."""
    return "".join(char if " " <= char <= "~" else "?" for char in name)


def _padded(line: Line, widths: Sequence[int]) -> Line:
    first = Cell(line[0].text[: widths[0]].ljust(widths[0]), line[0].style)
    others = zip(line[1:], widths[1:], strict=True)
    return [first, *(Cell(" " * GAP + c.text.rjust(width), c.style) for c, width in others)]


def _clipped(line: Line, columns: int) -> Line:
    found = []
    for cell in line:
        if columns <= 0:
            break
        found.append(Cell(cell.text[:columns], cell.style))
        columns -= len(cell.text)
    return found


def _painted(line: Line, *, is_coloured: bool) -> str:
    if not is_coloured:
        return "".join(cell.text for cell in line).rstrip()
    return "".join(
        f"\x1b[{SGR[cell.style]}m{cell.text}\x1b[0m" if cell.style else cell.text for cell in line
    )
