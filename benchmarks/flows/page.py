"""The results as a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.flows.measure import NODES, P99, P99_HAND, WALL, WALL_HAND, WALL_LOOSE
from benchmarks.page import DOCS, HEAD, read, table, write
from benchmarks.processes import BenchError
from benchmarks.verdicts import Results, Verdict, number

__all__ = ["DOCS", "PAGE", "RATIOS", "RESULTS", "publish", "read", "readme_table", "write"]

RESULTS = "flows.json"
PAGE = "flows.md"
WALL_MOST: Final = 2.5
RATIOS: Final = {"wall": (WALL, WALL_HAND), "loose": (WALL, WALL_LOOSE)}

INTRODUCTION = """\
# What flows cost

This page is written by `just bench flows`. Everything ran on one machine, side by side: an Insula
that `python -m app` started, embedded, and the same calls by bare asyncio. Read the ratios: they
are formed inside a round and carry over to other machines.
"""
METHOD = """\
## How it was measured

- {rounds} rounds of {executions} executions of a chain of {nodes} nodes, each a call to an agent
  over HTTP that answers at once, in a process of its own.
- Insula: every execution is started by a request of its own, over 16 connections, and kept before
  it is answered; each node's begin and end is on the disk before anything follows from it, with its
  output and two events; the agent counts as one that may not be called twice. Wall time is from the
  first request until all have completed. The p99 is from an execution's start to its end, waiting
  included: all of them are started as fast as they are taken on.
- By hand: 32 coroutines in one process, aiohttp, and one row committed for each node in SQLite's
  WAL as it comes (`synchronous=FULL`). Both sides promise the same: a node's row survives a power
  cut before the next node is called. By hand each row waits for the disk by itself; in Insula all
  executions that wait at the same moment share one flush. The second line leaves the promise out
  by hand (`synchronous=NORMAL`, rows that a power cut may take) and keeps it in Insula; it shows
  what all else costs. The p99 by hand is of the execution alone, 32 at a time.
- The hypervisor took {stolen_cores} cores away (median over the rounds).
"""
TRIED = """\
## What was tried

An execution does more than five calls and five rows: a request with its key and its limits, a plan,
a run with a lease, intent and result of each call, and two events for each.

| tried | effect |
| --- | --- |
| upserts prepared (SQLAlchemy compiles those of a dialect anew), and all hot statements | below |
| what several runs say at the same moment in one transaction | below |
| the settings of a node that says nothing are not read from it each time | below |
| all three, in alternation with what was before, 6 x 500 executions each | 25 to 8.1 ms of CPU |
| the plan looked at in the transaction that starts the execution, not in one of its own | below |
| services provided after the caller, news told together, flushes shared | below |
| these, in alternation with what was before, 6 x 500 on a busy machine | 9.2 to 7.9 ms of CPU |
| moments written to SQLite by `isoformat` in place of SQLAlchemy's format | nothing |
"""


def verdicts(results: Results) -> Iterator[Verdict]:
    cells, effort = results["cells"], results["effort"]
    wall_s, hand_s = (cells[name]["median"] for name in (WALL, WALL_HAND))
    rate, hand_rate = (effort["executions"] / took_s for took_s in (wall_s, hand_s))
    measured = results["ratios"]["wall"]
    yield Verdict(
        f"{effort['executions']} executions of {NODES} nodes, wall time",
        f"≤ {WALL_MOST} x",
        f"{measured:.3g} x ({number(wall_s)} s, {number(rate)}/s)",
        f"{number(hand_s)} s, {number(hand_rate)}/s (asyncio, aiohttp and a row for each node)",
        measured <= WALL_MOST,
    )
    loose_s, loose = cells[WALL_LOOSE]["median"], results["ratios"]["loose"]
    yield Verdict(
        "the same, beside rows that a power cut may take",
        "",
        f"{loose:.3g} x",
        f"{number(loose_s)} s, {number(effort['executions'] / loose_s)}/s (the same, no fsync)",
        None,
    )
    own, hand = (cells[name]["median"] * 1e3 for name in (P99, P99_HAND))
    yield Verdict(
        "p99 of one execution, all of them started at once",
        "",
        f"{number(own)} ms",
        f"{number(hand)} ms (32 at a time)",
        None,
    )


def render(results: Results) -> str:
    """The whole page."""
    found = list(verdicts(results))
    parts = [
        INTRODUCTION,
        table(HEAD, (verdict.row for verdict in found)),
        METHOD.format(nodes=NODES, **results["effort"], **results["facts"]),
        TRIED,
        _machine(results),
    ]
    return "\n".join(parts)


def publish(folder: Path = DOCS) -> None:
    """Write the page from what a run has left in `folder`."""
    results = read(RESULTS, folder)
    if results is None:
        raise BenchError("Nothing has been measured yet: leave --page-only out.")
    (folder / PAGE).write_text(render(results))


def readme_table() -> str:
    """The first table of the page, from the committed results."""
    results = read(RESULTS)
    if results is None:
        return "Not measured yet."
    return table(HEAD, (verdict.row for verdict in verdicts(results))).rstrip()


def _machine(results: Results) -> str:
    rows = [*results["machine"].items(), *results["versions"].items()]
    rows.append(("measured", f"{results['measured_at']}, {results['mode']}"))
    return "## Machine and versions\n\n" + table(
        ("", ""), ((name, str(value)) for name, value in rows)
    )
