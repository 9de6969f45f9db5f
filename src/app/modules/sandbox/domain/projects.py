"""Projects: what a script finds when it runs, as their owners write them down."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from app.kernel.errors import Invalid
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.domain.packages import canonical

DEFAULT_NAME: Final = "default"
DESCRIPTION_CHARS: Final = 1000
MODEL_CHARS: Final = 200
PRELOAD_LIMIT: Final = 64
MODULE_CHARS: Final = 200
SECRETS_LIMIT: Final = 64
SECRET_NAME_CHARS: Final = 128
SECRET_CHARS: Final = 8192
REPLICAS_LIMIT: Final = 64

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_SECRET_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_REFERENCE: Final = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)

# The names that files written for Airlock have for two limits.
_LIMIT_NAMES: Final = {"timeout": "wall_s", "max_output_mb": "output_mb"}
_FIELDS: Final = frozenset(
    ("name", "description", "packages", "preload", "limits", "secrets", "llm", "model", "replicas")
)

# The most that each tier's scripts may use, wherever a project allows more. The defaults of
# ``Limits`` stay what they are for every tier; the owner has the ceilings, and no entry here.
_TIERS: Final[Mapping[str, Limits]] = {
    "free": Limits(),
    "pro": Limits(
        wall_s=180,
        cpu_s=180,
        memory_mb=1024,
        processes=64,
        files=256,
        file_mb=128,
        disk_mb=256,
        inodes=8192,
        stdout_kb=4096,
        stderr_kb=1024,
        output_mb=64,
        code_kb=512,
        settings_kb=128,
        input_mb=16,
        artifacts=64,
        artifact_mb=16,
        llm_calls=100,
        llm_wait_s=900,
        prompt_kb=128,
        paused=64,
        queue=200,
    ),
    "power": Limits(
        wall_s=360,
        cpu_s=360,
        memory_mb=2048,
        processes=128,
        files=512,
        file_mb=512,
        disk_mb=512,
        inodes=32_768,
        stdout_kb=8192,
        stderr_kb=4096,
        output_mb=128,
        code_kb=512,
        settings_kb=256,
        input_mb=32,
        artifacts=128,
        artifact_mb=32,
        llm_calls=300,
        llm_wait_s=1800,
        prompt_kb=256,
        paused=128,
        queue=500,
    ),
    "team": Limits(
        wall_s=600,
        cpu_s=600,
        memory_mb=4096,
        processes=256,
        files=1024,
        file_mb=1024,
        disk_mb=1024,
        inodes=65_536,
        stdout_kb=16_384,
        stderr_kb=16_384,
        output_mb=256,
        code_kb=512,
        settings_kb=256,
        input_mb=64,
        artifacts=256,
        artifact_mb=64,
        llm_calls=1000,
        llm_wait_s=3600,
        prompt_kb=512,
        paused=256,
        queue=1000,
    ),
}

Llm: TypeAlias = Literal["caller", "gateway"]
Source: TypeAlias = Literal["file", "database", "built-in"]


class ProjectInvalid(Invalid):
    """A project's document says something that it cannot mean; the text names the field."""

    title = "Project invalid"


class Project(msgspec.Struct, frozen=True):
    """What a project's workers are made of, and what its scripts may use.

    A value in ``secrets`` is the secret, or ``${env:NAME}`` for a variable of the server.
    ``llm``: who answers a script's questions; ``model`` is what the gateway takes for "default".
    ``replicas`` are workers kept ready, 0 for the server's own number.
    """

    name: str
    description: str = ""
    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    limits: Limits = Limits()
    secrets: dict[str, str] = {}
    llm: Llm = "caller"
    model: str = ""
    replicas: int = 0

    def __repr__(self) -> str:
        """Say which one it is, and no secret."""
        return f"Project({self.name!r})"


class Entry(msgspec.Struct, frozen=True):
    """A project and where it is written down. Where it cannot be read, ``error`` says why."""

    name: str
    source: Source
    project: Project | None
    error: str = ""


def built_in() -> Entry:
    """The project that is there before anybody has written one."""
    project = Project(name=DEFAULT_NAME, description="Python and its standard library.")
    return Entry(DEFAULT_NAME, "built-in", project)


def parse_project(name: str, document: object) -> Project:
    """Read a project from what YAML or JSON said. ``ProjectInvalid`` or ``PackageInvalid``."""
    if NAME.fullmatch(name) is None:
        text = "has 1 to 63 characters of a-z, 0-9, _ and -, a letter or digit first"
        raise _refusal("name", text)
    given = {
        key: value for key, value in _mapping("document", document).items() if value is not None
    }
    _refuse_network(given.pop("network_allowlist", None))
    if unknown := sorted(given.keys() - _FIELDS):
        raise _refusal(unknown[0], f"is no field of a project; there are {_listed(_FIELDS)}")
    if given.pop("name", name) != name:
        raise _refusal("name", f"is not {name!r}, which this project is called here")
    return Project(
        name=name,
        description=_text(given, "description", DESCRIPTION_CHARS),
        packages=canonical(_list(given, "packages")),
        preload=_preload(_list(given, "preload")),
        limits=_limits(given.get("limits", {})),
        secrets=_secrets(given.get("secrets", {})),
        llm=_llm(given.get("llm", "caller")),
        model=_text(given, "model", MODEL_CHARS),
        replicas=read_replicas(given.get("replicas", 0)),
    )


def reference_of(value: str) -> str | None:
    """The server's variable that a secret stands for; ``None`` for a value of its own."""
    found = _REFERENCE.fullmatch(value)
    return None if found is None else found[1]


def read_replicas(given: object) -> int:
    """A number of workers to keep ready: a number, and not a text that looks like one."""
    is_number = isinstance(given, int) and not isinstance(given, bool)
    if not is_number or not 0 <= cast(int, given) <= REPLICAS_LIMIT:
        raise _refusal("replicas", f"is not a number from 0 to {REPLICAS_LIMIT}")
    return cast(int, given)


def for_tier(limits: Limits, tier: str | None) -> Limits:
    """Lower limits to what a billing tier may use. ``None`` is the owner, who has the ceilings.

    A tier that this table does not know is treated as the lowest.
    """
    if tier is None:
        return limits
    most = _TIERS.get(tier, _TIERS["free"])
    names = Limits.__struct_fields__
    return Limits(**{name: min(getattr(limits, name), getattr(most, name)) for name in names})


def _refuse_network(allowed: object) -> None:
    if allowed:
        raise _refusal(
            "network_allowlist", "must be empty: scripts have no network; take the field away"
        )


def _mapping(what: str, document: object) -> dict[str, Any]:
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise _refusal(what, "is not a mapping of names to values")
    for key in document:
        if not isinstance(key, str):
            raise _refusal(what, f"has the name {str(key)[:64]!r}, which is no text; quote it")
    return dict(document)


def _text(given: Mapping[str, object], field: str, limit: int) -> str:
    text = given.get(field, "")
    if not isinstance(text, str) or len(text) > limit:
        raise _refusal(field, f"is not a text of {limit} characters at most")
    return text


def _list(given: Mapping[str, object], field: str) -> list[object]:
    found = given.get(field, [])
    if not isinstance(found, list | tuple):
        raise _refusal(field, "is not a list")
    return list(found)


def _preload(modules: list[object]) -> tuple[str, ...]:
    if len(modules) > PRELOAD_LIMIT:
        raise _refusal("preload", f"has {len(modules)} entries; {PRELOAD_LIMIT} are the limit")
    for module in modules:
        is_name = isinstance(module, str) and len(module) <= MODULE_CHARS
        if not is_name or _MODULE.fullmatch(cast(str, module)) is None:
            raise _refusal("preload", f"has {str(module)[:64]!r}, which is no module's name")
    return tuple(dict.fromkeys(cast(list[str], modules)))


def _limits(document: object) -> Limits:
    given = _mapping("limits", document)
    for old, new in _LIMIT_NAMES.items():
        if old in given and new in given:
            raise _refusal(f"limits.{old}", f"is the old name of {new}; give one of them")
    renamed = {_LIMIT_NAMES.get(name, name): value for name, value in given.items()}
    try:
        return msgspec.convert(renamed, Limits)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        raise _refusal(f"limits.{where.rstrip('`')}" if where else "limits", why) from None


def _secrets(document: object) -> dict[str, str]:
    given = _mapping("secrets", document)
    if len(given) > SECRETS_LIMIT:
        raise _refusal("secrets", f"has {len(given)} entries; {SECRETS_LIMIT} are the limit")
    for name, value in given.items():
        if len(name) > SECRET_NAME_CHARS or _SECRET_NAME.fullmatch(name) is None:
            raise _refusal("secrets", f"has {name[:64]!r}, which is no name of a variable")
        _check_secret(f"secrets.{name}", value)
    return given


def _check_secret(field: str, value: object) -> None:
    """Refuse what is no secret, without saying what it is."""
    if not isinstance(value, str):
        raise _refusal(field, "is no text; quote it")
    if not 0 < len(value) <= SECRET_CHARS:
        raise _refusal(field, f"is not a text of 1 to {SECRET_CHARS} characters")
    if value.startswith("${") and reference_of(value) is None:
        raise _refusal(field, "refers to nothing that this server has; write ${env:NAME}")


def _llm(given: object) -> Llm:
    if given not in ("caller", "gateway"):
        raise _refusal("llm", "is neither 'caller' nor 'gateway'")
    return given


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _refusal(field: str, why: str) -> ProjectInvalid:
    return ProjectInvalid(f"{field}: {why}.", param=field)
