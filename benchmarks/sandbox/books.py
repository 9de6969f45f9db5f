"""What the server's own log says of each execution, and what to think of it."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

NOT_AGAIN: Final = "not run a second time"
FINAL: Final = frozenset({"completed", "error", "timeout"})
LOST, TWICE, WRONG = "lost", "run twice", "with a wrong end"
COMPLETED = "completed, once"
SAID = "ended with a word that they are not run a second time"
CANCELLED = "cancelled while they asked a language model"


class Execution(Protocol):
    """An execution, as its client knows it: ``books.judge`` compares it with the log."""

    number: int
    nonce: str
    asks: str
    ids: set[str]
    found: dict[str, Any]


@dataclass
class Book:
    """One run's log. ``claims``: how many processes have had it in their hands."""

    status: str
    claims: int
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Judged:
    """How one execution ended, or what is ``wrong`` with it, and ``why``."""

    end: str = ""
    wrong: str = ""
    why: str = ""


def read_books(database: Path) -> dict[str, Book]:
    """Every run of a database that no server has open."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT id, status, fence FROM runs_runs")
        # The end counts like a claim, so that nobody who held the run before can write.
        books = {str(UUID(run_id)): Book(status, fence - 1) for run_id, status, fence in rows}
        events = connection.execute(
            "SELECT run_id, name, data FROM runs_events ORDER BY run_id, seq"
        )
        for run_id, name, data in events:
            books[str(UUID(run_id))].events.append((name, json.loads(data)))
    return books


def judge(
    execution: Execution, books: dict[str, Book], seen: Collection[tuple[int, int]]
) -> Judged:
    """``seen``: the processes that were seen to run its script."""
    found = execution.found
    if len(execution.ids) != 1 or found.get("status") not in FINAL:
        return _wrong(LOST, execution, f"ids {sorted(execution.ids)}")
    book = books.get(found["execution_id"])
    if book is None:
        return _wrong(LOST, execution, "it is not in the database")
    if len(seen) > 1 or beginnings(book) > 1:
        return _wrong(TWICE, execution, f"{len(seen)} processes, {book}")
    return _end(execution, book)


def beginnings(book: Book) -> int:
    """How often the script was begun.

    A process that takes up a run begins its script, unless the run waits for a worker still
    (``queued``, later ``started``), or was begun before: then it has to end, as interrupted.
    """
    counted: defaultdict[str, int] = defaultdict(int)
    is_waiting = False
    for name, data in book.events:
        if name in {"queued", "started"}:
            is_waiting = name == "queued"
        elif name == "status" and data["status"] == "running" and is_waiting:
            counted["in the queue"] += 1
        elif name == "llm.asked":
            counted["questions"] += 1
    again = book.claims - 1 - counted["in the queue"]
    if book.status in {"interrupted", "cancelled"}:
        again = 0
    return max(1 + again, counted["questions"])


def _end(execution: Execution, book: Book) -> Judged:
    found = execution.found
    if found["status"] == "completed":
        answer = f"yes {execution.nonce}" if execution.asks == "answered" else None
        wanted = {"number": execution.number, "nonce": execution.nonce, "answer": answer}
        is_right = found["result"] == wanted and execution.asks != "unanswered"
        return Judged(COMPLETED) if is_right else _wrong(WRONG, execution, str(book))
    if book.status == "interrupted" and NOT_AGAIN in (found["error"] or ""):
        return Judged(SAID)
    if book.status == "cancelled" and execution.asks == "unanswered":
        return Judged(CANCELLED)
    return _wrong(WRONG, execution, str(book))


def _wrong(kind: str, execution: Execution, why: str) -> Judged:
    text = f"{kind}: {execution.number}, {execution.found}; {why}"
    return Judged(wrong=kind, why=text[:2000])
