"""The verbs of the command line, beside ``serve``."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

from app import schema
from app.adapters.surreal import SurrealSettings
from app.asgi import MODULES, VERSION, Insula
from app.kernel import log
from app.kernel.errors import AppError
from app.kernel.keys import rotate
from app.kernel.module import Command, MountError
from app.kernel.settings import Settings, SettingsError, Variable, load, variables
from app.settings import ENVIRON, OWNER_ONLY, HouseSettings


def run(words: Sequence[str]) -> None:
    """Run one command and exit with its status."""
    os.umask(OWNER_ONLY)
    module_commands = [c for kind in MODULES for c in kind.clients]
    homeless = {"settings", "secret", *(command.name for command in module_commands)}
    house = None if words[0] in homeless else Insula()
    if house is not None:
        module_commands += [c for m in house.block.modules for c in m.commands()]
    options = _parser(module_commands).parse_args(words)
    try:
        sys.stdout.write(asyncio.run(_dispatch(options, house, module_commands)) + "\n")
    except (AppError, MountError, SettingsError) as error:
        sys.exit(f"insula: {error}")


def _parser(module_commands: Sequence[Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("insula", description="The back end of an AI product.")
    parser.add_argument("--version", action="version", version=VERSION)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("serve", help="listen for requests (what happens without a command)")
    verbs.add_parser("worker", help="run background jobs only, beside servers on PostgreSQL")
    migrate = verbs.add_parser("migrate", help="bring the database to this version's schema")
    migrate.add_argument("--to", default="head", help="revision to move to, up or down")
    verbs.add_parser("check", help="say whether this installation would start, and why not")
    settings = verbs.add_parser("settings", help="list every variable, as an .env file")
    settings.add_argument("--markdown", action="store_true", help="as a table")
    secret = verbs.add_parser("secret", help="the master secret")
    secret.add_argument("action", choices=["rotate"], help="put a new secret before the old ones")
    for command in module_commands:
        command.arguments(verbs.add_parser(command.name, help=command.help))
    return parser


async def _dispatch(
    options: argparse.Namespace, house: Insula | None, module_commands: Sequence[Command]
) -> str:
    if options.verb == "settings":
        return settings_markdown() if options.markdown else settings_env()
    if options.verb == "secret":
        rotate(load(HouseSettings, ENVIRON).data_dir)
        return "A new secret is in use after the next start. Old data stays readable."
    command = next((c for c in module_commands if c.name == options.verb), None)
    if command is not None:
        return await _module_command(house, command, options)
    if house is None:
        raise MountError(f"unknown command {options.verb}")
    if options.verb == "worker":
        return await _work(house)
    if options.verb == "migrate":
        return await _migrate(house, options.to)
    return await _check(house)


async def _work(house: Insula) -> str:
    if house.settings.is_embedded:
        raise SettingsError("a worker needs DATABASE_URL: the embedded server runs its own jobs")
    log.configure(house.settings.log_level)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with house.opened():
        sys.stdout.write("".join(notice + "\n" for notice in house.kit.notices))
        sys.stdout.flush()
        await stop.wait()
    return "worker stopped"


async def _migrate(house: Insula, revision: str) -> str:
    found = await schema.current(house.db.writer)
    if found is not None and (revision == "base" or revision < found):
        await schema.downgrade(house.db.writer, revision)
    else:
        await schema.migrate(house.db.writer, revision)
    now = await schema.current(house.db.writer)
    await house.db.close()
    return f"database at revision {now or 'base'}"


async def _check(house: Insula) -> str:
    """Try everything the server would need; the last line says whether it would start."""
    lines, failed = [], 0
    found = await schema.current(house.db.writer)
    is_current = found == schema.head() or house.settings.is_embedded
    lines.append(f"schema: revision {found}, this version needs {schema.head()}")
    for name, check in house.block.checks.items():
        try:
            await asyncio.wait_for(check(), 10)
            lines.append(f"{name}: ok")
        except (AppError, MountError, TimeoutError, OSError) as error:
            failed += 1
            lines.append(f"{name}: {error or 'timed out'}")
    for closing in (house.surreal.close(), house.cache.close(), house.db.close()):
        with suppress(AppError):
            await closing
    if failed or not is_current:
        raise MountError("\n".join([*lines, "not ready"]))
    return "\n".join([*lines, "ready"])


async def _module_command(
    house: Insula | None, command: Command, options: argparse.Namespace
) -> str:
    if house is None:
        return await command.run(options)
    await schema.ensure(house.db.writer, may_migrate=house.settings.is_embedded)
    try:
        return await command.run(options)
    finally:
        await house.db.close()


def settings_env() -> str:
    """Every variable with its default, as the text of ``.env.example``."""
    lines = ["# Every variable of Insula, with its default. Written by `insula settings`.", ""]
    for title, found in _sections():
        lines.append(f"# --- {title}")
        for variable in found:
            lines += [f"# {variable.description}", f"# {variable.name}={variable.default}"]
        lines.append("")
    return "\n".join(lines).rstrip()


def settings_markdown() -> str:
    """Every variable as a Markdown table, for the README."""
    lines = ["| variable | default | what it does |", "|---|---|---|"]
    for _, found in _sections():
        for variable in found:
            default = f"`{variable.default}`" if variable.default else ""
            lines.append(f"| `{variable.name}` | {default} | {variable.description} |")
    return "\n".join(lines)


def _sections() -> Iterator[tuple[str, list[Variable]]]:
    yield "the house", list(variables(HouseSettings))
    yield "surrealdb", list(variables(SurrealSettings))
    for module in MODULES:
        flag = Variable(
            name=f"FEATURE_{module.name.upper()}",
            default="on" if module.flag else "off",
            description=f"Switches the module {module.name} on or off.",
            secret=False,
        )
        found = [] if module.settings_type is Settings else list(variables(module.settings_type))
        yield module.name, [flag, *found]
