"""The results as a page."""

from pathlib import Path
from typing import Any, Final

from benchmarks.page import DOCS, HEAD, read, table, write
from benchmarks.processes import BenchError
from benchmarks.sandbox.measure import (
    CLIENTS,
    COLD,
    DOCKER,
    DOCKER_HAND,
    HTTP,
    HTTP_READY,
    LOOPS,
    PANDAS,
    PANDAS_CODE,
    PANDAS_HAND,
    PASS,
    PASS_TWIN,
    PRINT,
    RATE,
    WARM,
)
from benchmarks.sandbox.verdicts import verdicts
from benchmarks.verdicts import Results, Verdict, number, spaced

__all__ = ["DOCS", "PAGE", "RESULTS", "publish", "read", "readme_table", "write"]

RESULTS = "sandbox.json"
CRASH = "sandbox-crash.json"
SOAK = "sandbox-soak.json"
PAGE = "sandbox.md"

PAIR_LIMIT = 0.05
FOREIGN_LIMIT_CORES = 0.2
ROWS: Final = {
    WARM: "ready worker, its job to its result, in process",
    COLD: "new worker, from nothing to its result, in process",
    HTTP: "over HTTP, one after the other",
    HTTP_READY: "over HTTP, each when the pool is full",
    PASS: "by hand: `python3 -I -c pass`",
    PASS_TWIN: "by hand: `python3 -I -c pass`, again",
    PRINT: 'by hand: `python3 -I -c "print(1)"`',
    PANDAS: "pandas preloaded, over HTTP",
    PANDAS_HAND: "by hand: `import pandas` and the same",
    DOCKER: "Docker runner, over HTTP",
    DOCKER_HAND: "by hand: `docker run --rm`",
}

INTRODUCTION = """\
# What a script costs

This page is written by `just bench sandbox`. Everything ran on one machine, side by side: scripts
in the sandbox of an Insula that `python -m app` started with its default settings, and the same
code as a process that is started by hand for it, with the same interpreter, no isolation and no
limits. The jail is of tier {tier}. Read the ratios: they are formed inside a round and carry over
to other machines; milliseconds do not.
"""
METHOD = """\
## How it was measured

- {rounds} rounds, in each every kind in a shuffled order, {shots} shots of a kind ({dear} where one
  takes long). Figures are medians over the rounds of the medians of each; ratios are medians of the
  ratios inside a round.
- By hand means `posix_spawn` and waiting for the end, output to `/dev/null`. The interpreter is the
  one that scripts run in, started in an empty virtual environment, so that nothing that happens to
  be installed beside it makes it slower.
- Two loops are two shells that start `python3 -I -c pass` side by side, {loops} times each.
- Over HTTP the client is a bare socket that is kept. *One after the other* asks again as soon as it
  has its answer, so that the pool of two workers has to keep up with it; *when the pool is full*
  waits for that before.
- A new worker is one that was forked, walled in, tested from the inside and given its script. It
  has its whole cost in it, and so has each request over HTTP: a worker runs one script.
- pandas: {pandas}. The operation:

{operation}

- PSS is the kernel's: a page that n processes share counts 1/n for each of them.
- Two identical series by hand ran in every round and differed by {apart}: {verdict}.
- While all of this was idle, other work on the machine took {foreign} cores (median over the
  rounds; {most} in the worst of them).
"""
DOCKER_METHOD = """\
- Docker: the engine that DOCKER_HOST names, and the runner's own hardened containers; by hand
  `docker run --rm --network none` of the same image, with none of the hardening.
"""


def render(results: Results, crash: Results | None, soak: Results | None) -> str:
    """The whole page."""
    found = list(verdicts(results, crash, soak))
    parts = [
        INTRODUCTION.format(tier=results["tier"]),
        table(HEAD, (verdict.row for verdict in found)),
        *_missed(found),
        _times(results["cells"]),
        _rates(results["cells"]),
        *([_crash(crash)] if crash else []),
        *([_soak(soak)] if soak else []),
        _method(results),
        _machine(results),
    ]
    return "\n".join(parts)


def publish(folder: Path = DOCS) -> None:
    """Write the page from what runs have left in `folder`."""
    results = read(RESULTS, folder)
    if results is None:
        raise BenchError("Nothing has been measured yet: leave --page-only out.")
    (folder / PAGE).write_text(render(results, read(CRASH, folder), read(SOAK, folder)))


def readme_table() -> str:
    """The first table of the page, from the committed results."""
    results = read(RESULTS)
    if results is None:
        return "Not measured yet."
    found = verdicts(results, read(CRASH), None)
    return table(HEAD, (verdict.row for verdict in found)).rstrip()


def _missed(found: list[Verdict]) -> list[str]:
    lines = [
        f"- {each.figure}, {each.measured}. {each.why}".rstrip()
        for each in found
        if each.is_met is False
    ]
    return ["## What is missed, and why\n\n" + "\n".join(lines) + "\n"] if lines else []


def _times(cells: dict[str, Any]) -> str:
    columns = {"median_ms": "median ms", "least_ms": "least ms", "p95_ms": "p95 ms"}
    rows = [
        (title, *(number(cells[name][column]) for column in columns))
        for name, title in ROWS.items()
        if name in cells
    ]
    return "## From start to result\n\n" + table(("what", *columns.values()), rows)


def _rates(cells: dict[str, Any]) -> str:
    rows = [
        (f"over HTTP, {clients} clients", number(cells[f"{RATE}-{clients}"]["per_s"]))
        for clients in CLIENTS
    ]
    rows.append(("by hand: two loops", number(cells[LOOPS]["per_s"])))
    return "## Scripts a second\n\n" + table(("what", "a second"), rows)


def _crash(crash: Results) -> str:
    text = (
        f"`python -m benchmarks.sandbox.crash` on {crash['measured_at']}: "
        f"{spaced(crash['executions'])} executions, each with an `Idempotency-Key`, and `kill -9` "
        f"of the server {crash['kills']} times among them, while scripts ran, waited for a worker, "
        "and waited for a language model. Afterwards every key was asked again. How each began and "
        "ended is in its log; processes that ran a script were watched from outside.\n\n"
    )
    rows = [(name, spaced(count)) for name, count in {**crash["ends"], **crash["wrong"]}.items()]
    return "## `kill -9`\n\n" + text + table(("executions", ""), rows)


def _soak(soak: Results) -> str:
    text = (
        f"`python -m benchmarks.sandbox.soak` on {soak['measured_at']}: {soak['minutes']:g} "
        "minutes of prints, floods, errors, time-outs, memory bombs, fork bombs, pauses, files, "
        "cancelled scripts, and a project that goes up and down.\n\n"
    )
    rows = [(name, str(value)) for name, value in soak["table"].items()]
    rows.append(("found wrong", str(len(soak["wrong"]))))
    wrong = "".join(f"- {one}\n" for one in soak["wrong"])
    return "## Mixed load\n\n" + text + table(("", ""), rows) + ("\n" + wrong if wrong else "")


def _method(results: Results) -> str:
    effort, noise = results["effort"], results["noise"]
    apart = abs(results["ratios"]["pair"] - 1)
    quiet = noise["foreign_cores"] <= FOREIGN_LIMIT_CORES
    is_good = apart <= PAIR_LIMIT and quiet
    why_not = results["missing"].get("pandas")
    text = METHOD.format(
        rounds=effort["rounds"],
        shots=effort["shots"],
        dear=effort["dear_shots"],
        loops=effort["loops"],
        pandas=f"not measured: {why_not}"
        if why_not
        else "installed from the package index, jailed",
        operation="\n".join(f"      {line}" for line in PANDAS_CODE.splitlines()),
        apart=f"{apart:.1%}",
        verdict="smaller differences mean nothing" if is_good else "**do not quote**",
        foreign=number(noise["foreign_cores"]),
        most=number(noise["most"]),
    )
    return text + ("" if "docker" in results["missing"] else DOCKER_METHOD)


def _machine(results: Results) -> str:
    rows = [*results["machine"].items(), *results["versions"].items()]
    rows.append(("measured", f"{results['measured_at']}, {results['mode']}"))
    return "## Machine and versions\n\n" + table(
        ("", ""), ((name, str(value)) for name, value in rows)
    )
