"""The program ``ai-spine``. Results go to standard output, progress to the other."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, TextIO

from ai_spine._base import TIMEOUT_S, WAIT_S
from ai_spine._clients import AISpine
from ai_spine._version import __version__
from ai_spine.exceptions import AISpineError, NotFoundError, ValidationError
from ai_spine.models import FINAL_STATUSES, Execution, Flow, HealthStatus

DONE, FAILED, USAGE, UNSUCCESSFUL, INTERRUPTED = 0, 1, 2, 3, 130
NODE_ENDS = FINAL_STATUSES | {"skipped"}
DESCRIPTION = (
    "AI_SPINE_BASE_URL says where the server is, AI_SPINE_API_KEY what lets you in. "
    "Exit codes: 0 done, 1 the call failed, 2 wrong usage, 3 the execution failed or "
    "was cancelled, 130 interrupted."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    asked = parser().parse_args(arguments)
    try:
        with AISpine(
            os.environ.get("AI_SPINE_API_KEY"),
            asked.base_url or os.environ.get("AI_SPINE_BASE_URL"),
            timeout=asked.request_timeout,
            debug=asked.debug,
        ) as client:
            code: int = asked.act(client, asked)
            return code
    except AISpineError as error:
        quote = f" (request {error.request_id})" if error.request_id else ""
        text = plain(f"ai-spine: {type(error).__name__}: {error}{quote}")
        sys.stderr.write(text + "\n")
        return USAGE if isinstance(error, ValidationError) else FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """What can be typed."""
    top = argparse.ArgumentParser("ai-spine", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--base-url", metavar="URL", help="where the server is")
    top.add_argument(
        "--request-timeout", type=float, default=TIMEOUT_S, metavar="SECONDS"
    )
    top.add_argument("--debug", action="store_true", help="log each request")
    commands = top.add_subparsers(metavar="COMMAND", dest="command")
    # Python 3.7 does not take `required` above.
    commands.required = True

    def command(name: str, act: Callable[..., int], text: str) -> Any:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(act=act)
        return added

    command("health", health, "Say whether the server is well.")
    listing = command("flows", flows, "List the flows.")
    listing.add_argument("--json", action="store_true")
    listing = command("agents", agents, "List the agents.")
    listing.add_argument("--json", action="store_true")
    _add_execute(command("execute", execute, "Start a flow."))
    watching = command("watch", watch, "Follow an execution to its end.")
    watching.add_argument("execution_id")
    _add_wait(watching)
    return top


def _add_execute(starting: argparse.ArgumentParser) -> None:
    starting.add_argument("flow_id")
    starting.add_argument(
        "--input",
        default="{}",
        metavar="JSON",
        help="the input: JSON, @FILE, or - for standard input",
    )
    starting.add_argument("--metadata", default="{}", metavar="JSON")
    starting.add_argument("--priority", type=int, metavar="0..10")
    starting.add_argument("--idempotency-key", metavar="KEY")
    starting.add_argument("--wait", action="store_true", help="follow it to its end")
    _add_wait(starting)


def _add_wait(waiting: argparse.ArgumentParser) -> None:
    waiting.add_argument("--timeout", type=float, default=WAIT_S, metavar="SECONDS")


def health(client: AISpine, _: argparse.Namespace) -> int:
    """Print the state and the version."""
    said = HealthStatus.from_dict(client.health_check())
    sys.stdout.write(plain(f"{said.status} {said.version}".rstrip()) + "\n")
    return DONE if said.is_healthy else FAILED


def flows(client: AISpine, asked: argparse.Namespace) -> int:
    """Print id, version and name of each flow."""
    return _print_table(asked, client.list_flows(), ("flow_id", "version", "name"))


def agents(client: AISpine, asked: argparse.Namespace) -> int:
    """Print id, health, name and endpoint of each agent."""
    names = ("agent_id", "status", "name", "endpoint")
    return _print_table(asked, client.list_agents(), names)


def execute(client: AISpine, asked: argparse.Namespace) -> int:
    """Start a flow; with ``--wait``, follow it."""
    started = client.execute_flow(
        asked.flow_id,
        _json("--input", asked.input),
        _json("--metadata", asked.metadata),
        priority=asked.priority,
        idempotency_key=asked.idempotency_key,
    )
    if asked.wait:
        return _follow(client, started["execution_id"], asked.timeout)
    _print_json(started)
    return DONE


def watch(client: AISpine, asked: argparse.Namespace) -> int:
    """Show a line of progress until the end, then the execution."""
    return _follow(client, asked.execution_id, asked.timeout)


class Progress:
    """One line that changes; on what is no terminal, a line for each change."""

    def __init__(self, stream: TextIO, nodes: int) -> None:
        self._stream = stream
        self._nodes = nodes
        self._is_live = stream.isatty()
        self._began_at = time.monotonic()
        self._ended: set[str] = set()
        self._status = "pending"

    def show(self, event: Mapping[str, Any]) -> None:
        """Take an event into the line."""
        said = event["data"]
        if event["event"] == "node" and said["status"] in NODE_ENDS:
            self._ended.add(said["node_id"])
        elif event["event"] in ("status", "result"):
            self._status = said["status"]
        elapsed_s = time.monotonic() - self._began_at
        of = f" of {self._nodes}" if self._nodes else ""
        nodes = f"{len(self._ended)}{of} nodes"
        line = plain(f"{self._status:<9}  {nodes}  {elapsed_s:.1f} s")
        self._stream.write(f"\r\x1b[K{line}" if self._is_live else f"{line}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line as it is."""
        if self._is_live:
            self._stream.write("\n")


def _follow(client: AISpine, execution_id: str, timeout_s: float) -> int:
    execution = client.get_execution(execution_id)
    progress = Progress(sys.stderr, _count_nodes(client, execution))
    try:
        for event in client.stream_execution(execution_id, timeout_s):
            progress.show(event)
            execution = event["data"]
    finally:
        progress.end()
    _print_json(execution)
    ended = Execution.from_dict(execution)
    return DONE if ended.is_successful else UNSUCCESSFUL


def _count_nodes(client: AISpine, execution: Mapping[str, Any]) -> int:
    """How many there are; 0 when the flow is gone."""
    version = execution.get("flow_version")
    try:
        flow = Flow.from_dict(client.get_flow(execution["flow_id"], version))
    except NotFoundError:
        return 0
    return len(flow.nodes)


def _json(name: str, text: str) -> dict[str, Any]:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        said = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ValidationError(f"{name} is no JSON: {error}.") from None
    if not isinstance(said, dict):
        raise ValidationError(f"{name} is no JSON object.")
    return said


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _print_table(
    asked: argparse.Namespace, items: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> int:
    if asked.json:
        _print_json(items)
        return DONE
    rows = [[plain(str(item.get(name, ""))) for name in names] for item in items]
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return DONE


def plain(text: str) -> str:
    """A text that cannot move the cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
