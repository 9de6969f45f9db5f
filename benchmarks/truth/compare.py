"""Call by call: do the usage rows say what the upstream did and what the client had?"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import Final

from benchmarks.furnish import cost_nanos
from benchmarks.truth.books import Allowances, Row, Served
from benchmarks.truth.driver import PREFIX, Driver, Heard
from benchmarks.truth.plan import SERVER_FAULTS, Planned
from benchmarks.verdicts import spaced

LOST, DOUBLED, UNPRICED = "lost", "doubled", "unpriced"
TOKENS, COST, OUTCOME = "wrong tokens", "wrong cost", "wrong outcome"
ATTEMPTS, ANSWER, STRANGER = "wrong attempts", "wrong answers", "unknown rows"
HELD, BUDGET = "still held", "wrong budget"
KINDS: Final = (
    LOST,
    DOUBLED,
    UNPRICED,
    TOKENS,
    COST,
    OUTCOME,
    ATTEMPTS,
    ANSWER,
    STRANGER,
    HELD,
    BUDGET,
)
# Of a stream that was cut its events are counted, each as a token at the least: the one that ends
# it carries none, and neither does the one that tells the usage, which is longer.
END_TOKENS = 1
USAGE_TOKENS = 16
BYTES_A_TOKEN = 4
EXAMPLES = 20

PLAIN, STREAMED, FAILED = "plain, answered whole", "streamed, answered whole", "failed as driven"
LEFT, STRUCK = "left by the client", "struck by `kill -9`"
GROUPS: Final = (PLAIN, STREAMED, FAILED, LEFT, STRUCK)
HEAD: Final = (
    "calls",
    "made",
    "asked of the upstream",
    "whole at the client",
    "rows",
    "tokens told",
    "tokens billed",
    "cost",
)


@dataclass
class Line:
    """One group of calls, added up."""

    made: int = 0
    asked: int = 0
    whole: int = 0
    rows: int = 0
    told: int = 0
    billed: int = 0
    nanos: int = 0


@dataclass
class Findings:
    """Differences by kind, the first of them in words, and the calls added up by group."""

    differences: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    examples: list[str] = field(default_factory=list)
    lines: dict[str, Line] = field(default_factory=lambda: {name: Line() for name in GROUPS})

    @property
    def is_true(self) -> bool:
        return not any(self.differences.values())

    @property
    def table(self) -> list[tuple[str, ...]]:
        """With its head as the first row."""
        lines = [astuple(line) for line in self.lines.values()]
        total = Line(*map(sum, zip(*lines, strict=True)))
        rows = [(name, *_shown(line)) for name, line in (self.lines | {"all": total}).items()]
        return [HEAD, *rows]

    def note(self, kind: str, text: str) -> None:
        self.differences[kind] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {text}")


def compare(
    driver: Driver, calls: Mapping[int, Served], rows: Iterable[Row], left: Allowances
) -> Findings:
    """Look at every call that was made, and at every row."""
    findings = Findings()
    by_number: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.request_id.startswith(PREFIX):
            by_number[int(row.request_id.removeprefix(PREFIX))].append(row)
    for number, heard in driver.heard.items():
        planned, mine = driver.planned[number], by_number.pop(number, [])
        call = calls.get(number, Served(number))
        for kind in judge(planned, heard, call, mine):
            findings.note(kind, f"{planned}\n  {heard}\n  {call}\n  {mine}")
        _add(findings.lines[_group(planned, heard)], heard, call, mine)
    for number, unknown in by_number.items():
        findings.note(STRANGER, f"call {number} was never made\n  {unknown}")
    if left.running:
        findings.note(HELD, f"{left.running} calls hold a place and none runs")
    nanos = sum(line.nanos for line in findings.lines.values())
    if left.spent_nanos != nanos:
        findings.note(BUDGET, f"{left.spent_nanos} nanos are spent, the rows add up to {nanos}")
    return findings


def judge(planned: Planned, heard: Heard, call: Served, rows: list[Row]) -> Iterator[str]:
    """Every kind of difference that one call shows."""
    is_undisturbed = not (heard.has_left or heard.was_struck)
    if is_undisturbed and not _is_answered(planned, heard, call):
        yield ANSWER
    if len(rows) > 1:
        yield DOUBLED
        return
    if not rows:
        # Under a killed server an answer may be missing, and then its row may be, too.
        if heard.is_whole or (call.asked and not heard.was_struck):
            yield LOST
        return
    row = rows[0]
    if row.input_tokens is not None and row.cost_nanos is None:
        yield UNPRICED
    elif row.cost_nanos != _cost(row):
        yield COST
    if not _is_outcome(planned, heard, row):
        yield OUTCOME
    if not _are_tokens(planned, heard, call, row):
        yield TOKENS
    if not _are_attempts(heard, call, row):
        yield ATTEMPTS


def _is_answered(planned: Planned, heard: Heard, call: Served) -> bool:
    """Whether a client that stayed has had what the upstream was told to send it."""
    is_complete = heard.is_whole and heard.status == planned.status
    if not planned.is_good or not is_complete:
        is_silent = not heard.is_done and heard.usage is None
        return is_complete and is_silent
    tells = planned.tells_usage or not planned.is_streamed
    told = (call.input, call.output, call.cached) if tells else None
    return heard.is_done == planned.is_streamed and heard.usage == told and call.whole > 0


def _is_outcome(planned: Planned, heard: Heard, row: Row) -> bool:
    if heard.call_id and row.id != heard.call_id:
        return False
    if heard.was_struck:
        return True
    found = (row.outcome, row.status)
    if heard.has_left:
        return found in {("abandoned", 499), ("completed", 200)}
    return found == ("completed" if planned.is_good else "failed", planned.status)


def _are_tokens(planned: Planned, heard: Heard, call: Served, row: Row) -> bool:
    """Those of a completed call are the upstream's own. Those of one that was left are counted:
    no less than its client had, no more than the upstream sent.
    """
    billed = (row.input_tokens, row.output_tokens, row.cached_tokens or 0)
    if row.outcome == "completed":
        return billed == (call.input, call.output, call.cached) and not row.is_estimated
    if row.outcome == "failed":
        return billed == (None, None, 0)
    inputs = {call.input, len(planned.body) // BYTES_A_TOKEN} if row.attempts else {0}
    most = max(call.events + END_TOKENS + (USAGE_TOKENS if call.input else 0), call.output)
    output = row.output_tokens
    return row.input_tokens in inputs and output is not None and heard.events <= output <= most


def _are_attempts(heard: Heard, call: Served, row: Row) -> bool:
    """A call that ended in the middle may have had one more under way."""
    if heard.was_struck or heard.has_left:
        return 0 <= row.attempts - call.asked <= 1 or heard.was_struck
    return row.attempts == call.asked == (2 if row.status in SERVER_FAULTS else 1)


def _cost(row: Row) -> int | None:
    if row.input_tokens is None:
        return None
    return cost_nanos(row.input_tokens, row.cached_tokens or 0, row.output_tokens or 0)


def _group(planned: Planned, heard: Heard) -> str:
    if heard.was_struck:
        return STRUCK
    if heard.has_left:
        return LEFT
    if not planned.is_good:
        return FAILED
    return STREAMED if planned.is_streamed else PLAIN


def _add(line: Line, heard: Heard, call: Served, rows: list[Row]) -> None:
    line.made += 1
    line.asked += call.asked > 0
    line.whole += heard.is_whole
    line.rows += len(rows)
    line.told += call.input + call.output
    line.billed += sum((row.input_tokens or 0) + (row.output_tokens or 0) for row in rows)
    line.nanos += sum(row.cost_nanos or 0 for row in rows)


def _shown(line: Line) -> tuple[str, ...]:
    counts = (line.made, line.asked, line.whole, line.rows, line.told, line.billed)
    return (*(spaced(count) for count in counts), f"{line.nanos / 1e9:.6f}")
