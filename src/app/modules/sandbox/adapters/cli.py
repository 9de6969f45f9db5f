"""``insula sandbox run`` and ``insula sandbox doctor``."""

import argparse
import asyncio
import os
import signal
import sys
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import msgspec
from msgspec import Meta

from app.kernel.settings import Secret, Settings, load
from app.modules.sandbox.adapters.screen import Person, Screen

TIMEOUT_CEILING_S: Final = 600
READ_LIMIT_BYTES: Final = 128 * 1024 * 1024
ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a shell calls the end by a signal.
BY_SIGNAL: Final = 128
STATUSES: Final = (
    "Exit status: 0 completed, 1 error, 2 wrong usage, 124 timeout, 130 interrupted. "
    "A result is the last line of standard output, as JSON."
)


class ClientSettings(Settings, frozen=True):
    """The environment of whoever asks a server."""

    api_key: Annotated[
        Secret | None, Meta(description="API key with which `insula` asks a server.")
    ] = msgspec.field(name="INSULA_API_KEY", default=None)
    bootstrap_key: Secret | None = msgspec.field(name="APP_BOOTSTRAP_KEY", default=None)
    prefix: str = msgspec.field(name="SANDBOX_PREFIX", default="/sandbox")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe both verbs."""
    verbs = parser.add_subparsers(dest="action", required=True)
    run = verbs.add_parser("run", help="run a script on a server", epilog=STATUSES)
    run.set_defaults(refuse=run.error)
    run.add_argument("script", type=_script, help="file of Python; - is standard input")
    run.add_argument("--project", default="default", help="what the script may import and use")
    run.add_argument(
        "--llm", choices=["caller", "gateway"], default="caller", help="caller: you answer prompts"
    )
    run.add_argument("--timeout", type=_seconds, default=60, metavar="S", help="pauses not counted")
    run.add_argument(
        "--setting", type=_setting, action="append", default=[], metavar="K=V", help="any number"
    )
    run.add_argument(
        "--file", type=_file, action="append", default=[], metavar="PATH", help="any number"
    )
    run.add_argument("--artifacts", type=Path, metavar="FOLDER", help="where saved files go")
    run.add_argument("--memory", type=_memory, default={}, metavar="FILE", help="a JSON object")
    run.add_argument("--url", default="http://127.0.0.1:8000", help="where the server is")
    run.add_argument("--key", default="", help="else INSULA_API_KEY, else APP_BOOTSTRAP_KEY")
    verbs.add_parser("doctor", help="what this machine offers to isolate scripts with")


async def command(environ: Mapping[str, str], options: argparse.Namespace) -> str:
    """Do what was asked for; return what is left to be printed, or exit with a status."""
    if options.action == "doctor":
        # Runners and the Docker SDK, which no other command needs.
        from app.modules.sandbox.adapters.doctor import examine  # noqa: PLC0415 - see above

        report = await examine(environ)
        if not report.is_isolated:
            sys.stdout.write(report.text + "\n")
            sys.exit(1)
        return report.text
    sys.exit(await _run(environ, options))


async def _run(environ: Mapping[str, str], options: argparse.Namespace) -> int:
    """Run a script until it ends or a signal comes; the exit status."""
    # An HTTP client, which a server that is asked needs late or never.
    from app.modules.sandbox.adapters.remote import RemoteSandbox  # noqa: PLC0415 - see above
    from app.modules.sandbox.adapters.session import Session  # noqa: PLC0415 - see above

    order = _order(options)
    if options.artifacts is not None:
        options.artifacts.mkdir(parents=True, exist_ok=True)
    settings = load(ClientSettings, environ)
    key = options.key or settings.api_key or settings.bootstrap_key or ""
    sandbox = RemoteSandbox(options.url, key, settings.prefix)
    screen = Screen(sys.stdout, sys.stderr)
    person = Person(sys.stdin, screen) if options.llm == "caller" else None
    session = Session(sandbox, screen, person, options.artifacts)
    ends: list[signal.Signals] = []
    running = asyncio.ensure_future(session.run(order))
    try:
        _listen(running, ends)
        return await running
    except asyncio.CancelledError:
        if not ends:
            raise
        return BY_SIGNAL + ends[0]
    except BrokenPipeError:
        # Nobody reads on. Python would complain once more at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BY_SIGNAL + signal.SIGPIPE
    finally:
        for number in ENDS:
            asyncio.get_running_loop().remove_signal_handler(number)
        await sandbox.close()


def _listen(running: "asyncio.Future[int]", ends: list[signal.Signals]) -> None:
    """A signal stops the script, a second one also the wait for that."""

    def end(number: signal.Signals) -> None:
        ends.append(number)
        running.cancel()

    for number in ENDS:
        # What nohup has us ignore stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, end, number)


def _order(options: argparse.Namespace) -> dict[str, Any]:
    """The request that the options describe."""
    names = [name for name, _ in options.file]
    if len(names) != len(set(names)):
        options.refuse("two files have the same name")
    return {
        "code": options.script,
        "project": options.project,
        "timeout": options.timeout,
        "settings": dict(options.setting),
        "memory": options.memory,
        "files": [{"name": name, "content_base64": content} for name, content in options.file],
        "llm": options.llm,
    }


def _script(path: str) -> str:
    try:
        return (_limited(sys.stdin.buffer, path) if path == "-" else _read(path)).decode()
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"{path} is not UTF-8") from None
    except KeyboardInterrupt:
        sys.exit(BY_SIGNAL + signal.SIGINT)


def _file(path: str) -> tuple[str, str]:
    return Path(path).name, b64encode(_read(path)).decode()


def _memory(path: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(_read(path), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise argparse.ArgumentTypeError(f"{path} is no JSON object") from None


def _setting(pair: str) -> tuple[str, str]:
    name, found, value = pair.partition("=")
    if not name or not found:
        raise argparse.ArgumentTypeError("a setting is NAME=VALUE")
    return name, value


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) <= TIMEOUT_CEILING_S:
        raise argparse.ArgumentTypeError(f"whole seconds from 1 to {TIMEOUT_CEILING_S}")
    return int(text)


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return _limited(file, path)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from None


def _limited(file: BinaryIO, path: str) -> bytes:
    data = file.read(READ_LIMIT_BYTES + 1)
    if len(data) > READ_LIMIT_BYTES:
        raise argparse.ArgumentTypeError(f"{path} is too large to be sent")
    return data
