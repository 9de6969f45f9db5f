"""Environment to typed settings. A field's encoded name is its variable."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec


class Secret(str):
    """Text that never shows itself in a repr, a log line or an error."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')"


class Csv(tuple[str, ...]):
    """A comma-separated variable."""

    __slots__ = ()


class Settings(msgspec.Struct, frozen=True):
    """Base of every settings struct. Variables that no field names are ignored."""


class SettingsError(Exception):
    """A variable has a value that cannot be used. The text names the variable and the way out."""


class Variable(msgspec.Struct, frozen=True):
    """One environment variable, as the documentation shows it."""

    name: str
    default: str
    description: str
    secret: bool


S = TypeVar("S", bound=Settings)


def env(prefix: str) -> Callable[[str], str]:
    """Name each field's variable ``<PREFIX>_<FIELD>``."""
    return lambda field: f"{prefix}_{field.upper()}"


def load(kind: type[S], environ: Mapping[str, str]) -> S:
    """Read ``kind`` from ``environ``. An empty variable counts as unset.

    A field whose variable holds a ``*`` is a dict of every variable that fits, by what the star
    stands for, in lower case.
    """
    given: dict[str, Any] = {name: value for name, value in environ.items() if value.strip()}
    given |= {f.encode_name: _family(f.encode_name, given) for f in _families(kind)}
    try:
        return msgspec.convert(given, kind, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        text = re.sub(r"at `\$\.(\w+)`", r"at $.\1", str(error))
        raise SettingsError(text) from None


def variables(kind: type[Settings]) -> Iterator[Variable]:
    """List what ``kind`` reads, with defaults and descriptions."""
    for field in msgspec.structs.fields(kind):
        info = msgspec.inspect.type_info(field.type)
        extra = info.extra_json_schema if isinstance(info, msgspec.inspect.Metadata) else None
        default = "" if field.default in (None, msgspec.NODEFAULT) else field.default
        text = ",".join(default) if isinstance(default, Csv) else str(default)
        secret = "Secret" in str(field.type)
        yield Variable(
            field.encode_name.replace("*", "<NAME>"),
            text,
            (extra or {}).get("description", ""),
            secret,
        )


def _decode(kind: type, value: Any) -> Any:
    if kind is Secret:
        return Secret(value)
    if kind is Csv:
        return Csv(part.strip() for part in value.split(",") if part.strip())
    raise NotImplementedError(kind)


def _families(kind: type[Settings]) -> list[msgspec.structs.FieldInfo]:
    return [field for field in msgspec.structs.fields(kind) if "*" in field.encode_name]


def _family(pattern: str, given: Mapping[str, str]) -> dict[str, str]:
    start, _, end = pattern.partition("*")
    least = len(start) + len(end) + 1
    fitting = [n for n in given if len(n) >= least and n.startswith(start) and n.endswith(end)]
    return {name[len(start) : len(name) - len(end)].lower(): given[name] for name in fitting}
