"""The results as a page."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.page import DOCS, HEAD, read, table, write
from benchmarks.processes import BenchError
from benchmarks.storage.measure import (
    DCPE,
    DOWN,
    DOWN_HAND,
    FIRST,
    GET,
    GET_ROW,
    LAST,
    PLAIN,
    PRODUCT,
    PUT,
    PUT_HAND,
    SCAN,
    UP,
    UP_HAND,
)
from benchmarks.verdicts import Results, Verdict, number

__all__ = ["DOCS", "PAGE", "RATIOS", "RESULTS", "publish", "read", "readme_table", "write"]

RESULTS = "storage.json"
PAGE = "storage.md"
RECALL_LEAST = 0.98
GROWTH_MOST_MIB = 32
RATIOS: Final = {
    "put": (PUT, PUT_HAND),
    "get": (GET, GET_ROW),
    # Seconds, turned around: how much of the speed by hand is left.
    "upload": (UP_HAND, UP),
    "download": (DOWN_HAND, DOWN),
    "feed": (LAST, FIRST),
    "scan": (SCAN, PRODUCT),
    "dcpe": (DCPE, PLAIN),
}


@dataclass(frozen=True)
class Bound:
    """One ratio that must hold: at most `limit`, or at least. `scale` is from seconds to `unit`."""

    figure: str
    ratio: str
    limit: float
    cell: str
    peer: str
    name: str
    unit: str
    is_least: bool = False
    scale: float = 1.0


BOUNDS: Final = (
    Bound(
        "4 KiB put, 16 connections",
        "put",
        0.4,
        PUT,
        PUT_HAND,
        "a loop that writes and fsyncs a file and commits a row",
        "/s",
        is_least=True,
    ),
    Bound(
        "4 KiB get, 16 connections",
        "get",
        0.5,
        GET,
        GET_ROW,
        "an ordinary Litestar route that reads one row",
        "/s",
        is_least=True,
    ),
    Bound(
        "upload of {file_mib} MiB",
        "upload",
        0.6,
        UP,
        UP_HAND,
        "through a socket, SHA-256, file and fsync",
        "s",
        is_least=True,
    ),
    Bound(
        "download of {file_mib} MiB",
        "download",
        0.6,
        DOWN,
        DOWN_HAND,
        "file through a socket, SHA-256",
        "s",
        is_least=True,
    ),
    Bound(
        "last pages of a feed of {records} changes",
        "feed",
        1.5,
        LAST,
        FIRST,
        "its first pages",
        "ms",
        scale=1e3,
    ),
    Bound(
        "exact scan, {vectors} x 384",
        "scan",
        1.5,
        SCAN,
        PRODUCT,
        "one NumPy matrix-vector product",
        "ms",
        scale=1e3,
    ),
    Bound(
        "`dcpe` search and re-rank, {vectors} x 384",
        "dcpe",
        1.2,
        DCPE,
        PLAIN,
        "a `plain` search",
        "ms",
        scale=1e3,
    ),
)

INTRODUCTION = """\
# What storage costs

This page is written by `just bench storage`. Everything ran on one machine, side by side: an Insula
that `python -m app` started, embedded (SQLite and a folder), and the same work without it. Read the
ratios: they are formed inside a round and carry over to other machines.
"""
METHOD = """\
## How it was measured

- Small bodies: {rounds} rounds of {for_s} s for each kind, 16 connections of a client that writes
  requests it has made before. A put is answered when its transaction would survive a power cut;
  those who wait share a flush. The loop by hand is one writer, with SQLite's WAL as it comes
  (`synchronous=FULL`), whose rows survive one too. The ordinary route is
  Litestar with SQLAlchemy's session on the same driver and server, with no key, owner, ETag or
  digest.
- Large bodies: by hand, one process sends and one receives through a socket, computes the SHA-256
  and, for an upload, writes the file and fsyncs it. Insula does that and more; its client is the
  one that is used by hand. Resident memory is looked at every 50 ms.
- The feed: records written in batches of 100, read in pages of 500; the medians of the first and
  of the last {pages} full pages.
- Vectors: a corpus of clusters with a falling spectrum, 384 dimensions. The scan is the embedded
  index in process, warm, top 10, beside `matrix @ query` of the same numbers. The two searches are
  over HTTP: `plain` asks for 10, `dcpe` (noise of beta 2, centred and rotated by the client) for
  50, which the client opens and ranks again. Recall is against the exact search of the corpus.
- The hypervisor took {stolen_cores} cores away (median over the rounds).
"""
TRIED = """\
## What was tried for `dcpe`

The ranking itself takes as long as in a plain collection. What is beyond it is five times as many
rows to read and send, and a client that encrypts the query, opens fifty items and compares them.
After a scan of 150 MB all of it finds cold caches. The times below are CPU times of the thread that
does the work, on a busy machine. Beyond a plain search the client took 5.0 ms at first and takes
1.8 ms now; the server's loop took 1.4 ms and takes 0.8 ms.

| tried | effect |
| --- | --- |
| an answer in bytes for who asks for it (`application/vnd.insula.found`): 86, not 112 KB | \
reading it: 0.6 to 1.0 ms (JSON and base64), then 0.15 ms |
| the same with sizes in a head of JSON, to be parsed by the client | 0.26 ms |
| fifty items opened as one series: what they begin with and are bound to is put together once | \
1.3 to 0.43 ms, warm |
| HChaCha20 with one subtraction of 256 bits | 3.7 to 2.3 us an item, in the figure above |
| AES-256-GCM-SIV in place of XChaCha20-Poly1305 | next to nothing: 6.5 to 5.8 us an item |
| products of rows, not of matrices; the rotation in single precision | \
comparing: 0.20 to 0.13 ms; encrypting: 0.43 to 0.37 ms |
| the fifty rows by one prepared statement, their ids as one list | the server's loop, with the \
answer in bytes: 1.4 to 0.8 ms |
| a short statement for each row | 0.9 ms, where the list takes 0.5 ms |
| noise for eight queries drawn at once | would save 0.2 ms on average, but a process that forks \
must not use it twice; not done |
| an epoch's key, cipher and header kept between items | opening fifty: 2.4 to 1.1 ms, warm |
| hits made for the best ten only, a leaner encoding of what is bound | in the figures above |
| SQLite's `cache_size` and `mmap_size` for the fifty rows | nothing |
| BLAS threads that sleep, not spin (`OPENBLAS_THREAD_TIMEOUT`) | half of the CPU, no wall time |
"""


def verdicts(results: Results) -> Iterator[Verdict]:
    for bound in BOUNDS:
        measured = results["ratios"][bound.ratio]
        is_met = measured >= bound.limit if bound.is_least else measured <= bound.limit
        own, peer = (
            results["cells"][cell]["median"] * bound.scale for cell in (bound.cell, bound.peer)
        )
        sign = "≥" if bound.is_least else "≤"
        unit = bound.unit if bound.unit.startswith("/") else f" {bound.unit}"
        yield Verdict(
            bound.figure.format(**results["effort"]),
            f"{sign} {bound.limit} x",
            f"{measured:.3g} x ({number(own)}{unit})",
            f"{number(peer)}{unit} ({bound.name})",
            is_met,
        )
    growth_mib = results["facts"]["large_rss_growth_mib"]
    yield Verdict(
        f"growth of RSS while {results['effort']['largest_mib']} MiB go up and down",
        f"≤ {GROWTH_MOST_MIB} MiB",
        f"{growth_mib} MiB",
        "-",
        growth_mib <= GROWTH_MOST_MIB,
    )
    recall = results["facts"]["recall"]
    yield Verdict(
        "recall@10 of `dcpe` after re-rank of 50",
        f"≥ {RECALL_LEAST}",
        f"{recall:.4f}",
        f"exact search; {results['facts']['raw_recall']:.3f} before the re-rank",
        recall >= RECALL_LEAST,
    )


def render(results: Results) -> str:
    """The whole page."""
    found = list(verdicts(results))
    parts = [
        INTRODUCTION,
        table(HEAD, (verdict.row for verdict in found)),
        METHOD.format(**results["effort"], **results["facts"]),
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
