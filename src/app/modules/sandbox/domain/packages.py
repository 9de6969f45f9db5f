"""Which packages a project may name, and the name of the set that they make."""

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from app.kernel.errors import Invalid

PACKAGES_LIMIT: Final = 64
REQUIREMENT_CHARS: Final = 200
VERSIONS_LIMIT: Final = 8
EXTRAS_LIMIT: Final = 16
HASH_CHARS: Final = 32

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_SHAPE: Final = re.compile(rf"({_PART}) *(?:\[([^\[\]]*)\])? *(\([^()]*\)|[^()]*)", re.ASCII)
_NAME: Final = re.compile(_PART, re.ASCII)
_VERSION: Final = re.compile(
    r"(~=|===|==|!=|<=|>=|<|>) *([A-Za-z0-9][A-Za-z0-9._+!-]{0,63}(?:\.\*)?)", re.ASCII
)
_RUNS: Final = re.compile(r"[-_.]+")

# What people, or attackers, write where a name belongs: how it looks, and why it is refused.
_REFUSED: Final = (
    (re.compile(r"[^\x20-\x7e]"), "has a character that no requirement has"),
    (re.compile(r"^-"), "is an option of the installer, not a package"),
    (re.compile(r"://|@"), "is an address; packages come from the server's index by their names"),
    (re.compile(r";"), "has an environment marker; name only what this server shall install"),
    (re.compile(r"^[.~]|[/\\]"), "is a path; packages come from the server's index"),
    (re.compile(r"\.(?:whl|zip|tar|gz|bz2|xz|tgz)$", re.IGNORECASE), "is a file, not a package"),
    (re.compile(r"--"), "has an option of the installer behind its name"),
    (re.compile(r"[$`#%'\"|&]"), "has a character that no requirement has"),
)


class PackageInvalid(Invalid):
    """A requirement is not a name with optional extras and versions."""

    title = "Package invalid"


class Requirement(msgspec.Struct, frozen=True, order=True):
    """A package by its normalised name, its extras and what its version must be."""

    name: str
    extras: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()

    def __str__(self) -> str:
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{self.name}{extras}{','.join(self.versions)}"


def canonical(packages: Sequence[object]) -> tuple[str, ...]:
    """Return the requirements checked, written in one way, sorted, each once.

    ``PackageInvalid`` says which one is refused, and why.
    """
    if len(packages) > PACKAGES_LIMIT:
        raise _refusal("packages", f"has {len(packages)} entries; {PACKAGES_LIMIT} are the limit")
    found = sorted({read_requirement(package) for package in packages})
    for before, after in pairwise(found):
        if before.name == after.name:
            raise _refusal(f"packages: {after.name!r}", "is named twice; write one line for it")
    return tuple(map(str, found))


def read_requirement(text: object) -> Requirement:
    """Read ``name[extra,...] ==1.2, <3``: no address, option, path, file or marker."""
    if not isinstance(text, str):
        raise _refusal("packages", "are texts, one for each package")
    if not 0 < len(text) <= REQUIREMENT_CHARS:
        raise _refusal("packages", f"have names of 1 to {REQUIREMENT_CHARS} characters")
    for look, why in _REFUSED:
        if look.search(text):
            raise _refusal(f"packages: {text!r}", why)
    shape = _SHAPE.fullmatch(text.strip(" "))
    if shape is None:
        raise _refusal(f"packages: {text!r}", "is not a name with optional extras and versions")
    name, extras, versions = shape.groups()
    return Requirement(_normal(name), _extras(text, extras), _versions(text, versions))


def package_hash(packages: Sequence[str], python_tag: str) -> str:
    """Name the set of these packages for one Python and one index: equal for equal sets."""
    lines = "\n".join((python_tag, *canonical(packages)))
    return hashlib.sha256(lines.encode()).hexdigest()[:HASH_CHARS]


def _extras(text: str, given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    names = [name.strip(" ") for name in given.split(",")]
    if len(names) > EXTRAS_LIMIT or not all(_NAME.fullmatch(name) for name in names):
        raise _refusal(f"packages: {text!r}", "has extras that are no names")
    return tuple(sorted({_normal(name) for name in names}))


def _versions(text: str, given: str) -> tuple[str, ...]:
    bare = given.strip(" ")
    if bare.startswith("("):
        bare = bare[1:-1].strip(" ")
    if not bare:
        return ()
    found = [_VERSION.fullmatch(part.strip(" ")) for part in bare.split(",")]
    if len(found) > VERSIONS_LIMIT or not all(found):
        raise _refusal(f"packages: {text!r}", "has a version that is none; write ==1.2 or >=1,<2")
    return tuple(sorted({"".join(one.groups()) for one in found if one is not None}))


def _normal(name: str) -> str:
    return _RUNS.sub("-", name).lower()


def _refusal(what: str, why: str) -> PackageInvalid:
    return PackageInvalid(f"{what} {why}.", param="packages")
