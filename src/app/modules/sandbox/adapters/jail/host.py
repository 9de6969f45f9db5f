"""What this host lends a jail: an interpreter, what may be read, and user ids."""

import itertools
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

import insula_jail
from app.modules.sandbox.ports import NoWall

Tier: TypeAlias = Literal["A", "B"]

# From the strongest down.
TIERS: Final[tuple[Tier, ...]] = ("A", "B")
# Every worker may read what the system has here.
SYSTEM: Final = Path("/usr")
# Where packages are in a root of its own: nothing that a worker gets for itself lies there.
PACKAGES: Final = "/opt/packages"
# A part of the range that nobody hands out: not to people, containers or services.
UIDS_FROM: Final = 1_900_000_000
UIDS_A_TEMPLATE: Final = 65_536
UID_BLOCKS: Final = 1000
# Workers get their ids in turn.
UIDS_IN_TURN: Final = 10_000


def candidates(forced: Tier | None) -> tuple[Tier, ...]:
    """The tiers to try, in this order."""
    return TIERS if forced is None else (forced,)


def is_enough(tier: Tier, least: Tier) -> bool:
    return TIERS.index(tier) <= TIERS.index(least)


class Interpreter(msgspec.Struct, frozen=True):
    """A Python that a zygote can be: below every virtual environment, with nothing installed."""

    program: Path
    prefixes: tuple[Path, ...]

    def command(self, control: int) -> list[str]:
        """How to start the zygote, which is asked through the descriptor ``control``."""
        folder = str(Path(insula_jail.__file__).resolve().parent.parent)
        code = (
            f"import sys; sys.path.insert(0, {folder!r}); "
            "from insula_jail.zygote import main; main()"
        )
        flags = ("-I", "-S", "-X", "utf8", "-B")
        return [str(self.program), *flags, "-c", code, str(control)]

    def binds(self) -> list[tuple[str, str]]:
        """Source and target of what it needs to read beside the system's own folders."""
        kept: list[Path] = []
        for path in sorted({self.program.parent, *self.prefixes}):
            if not any(path.is_relative_to(other) for other in (SYSTEM, *kept)):
                kept.append(path)
        return [(str(path), str(path)) for path in kept]


def interpreter(tier: Tier) -> Interpreter:
    """The server's own; or the system's, of the same version, where workers could not read that.

    ``NoWall`` if they can read none. With a root of their own they can read whatever root can.
    """
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if tier == "A" or os.geteuid() != 0 or (closed := closed_folder(own)) is None:
        prefixes = (Path(sys.base_prefix).resolve(), Path(sys.base_exec_prefix).resolve())
        return Interpreter(own, prefixes)
    name = "python{}.{}".format(*sys.version_info)
    if (SYSTEM / "bin" / name).exists():
        return Interpreter((SYSTEM / "bin" / name).resolve(), ())
    text = f"{own} is below {closed}, which only its owner may enter, and there is no /usr/bin/"
    raise NoWall(f"{text}{name}. Scripts run as users of their own, and could not read Python.")


def closed_folder(path: Path) -> Path | None:
    """The first folder above ``path`` that not everybody may pass through."""
    above = reversed(path.parents)
    return next((folder for folder in above if not folder.stat().st_mode & stat.S_IXOTH), None)


def package_bind(tier: Tier, folder: str) -> tuple[str, str]:
    """Source and target of a project's packages, wherever on the host they lie."""
    source = str(Path(folder).resolve())
    return source, PACKAGES if tier == "A" else source


def uid_blocks() -> Iterator[int | None]:
    """The first of each template's user ids, or nothing where the server may not change its own.

    Servers beside each other on one machine begin at different places.
    """
    if os.geteuid() != 0:
        yield from itertools.repeat(None)
    start = secrets.randbelow(UID_BLOCKS)
    for block in itertools.count(start):
        yield UIDS_FROM + block % UID_BLOCKS * UIDS_A_TEMPLATE


def owner_of(worker: int, uid_base: int | None) -> tuple[int, int] | None:
    """The user and group of a worker by its number, as its zygote counts too; or the server's."""
    return None if uid_base is None else (uid_base + worker % UIDS_IN_TURN, uid_base)
