"""Which walls stand, as the engine and a worker in its container see it, and if enough do."""

from collections.abc import Mapping
from typing import Any, Final

from app.modules.sandbox.ports import Capabilities, Wall

# What the engine must be able to hold a container to, by the names of its own facts.
NEEDED: Final = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "processor time"}
# What each worker must have raised by itself. Landlock is not there: gVisor's kernel has none.
ESSENTIAL: Final = ("limits", "capabilities", "seccomp")

NO_PROFILE: Final = "The engine filters no system calls; the worker's own filter still does."
NO_GVISOR: Final = "Scripts share this kernel; install gVisor and register runsc with the engine."
NOT_INSIDE: Final = "The kernel that the container sees does not offer it."


def lacking(facts: Mapping[str, Any]) -> str:
    """Say what the engine cannot limit; nothing if it can all that is needed."""
    missing = [name for fact, name in NEEDED.items() if not facts.get(fact)]
    if not missing:
        return ""
    return f"The Docker engine cannot limit {', '.join(missing)}: its host needs cgroups for that."


def down(inner: Mapping[str, bool]) -> str:
    """Say which walls a worker lacks that none may lack; nothing if it has them all."""
    missing = [name for name in ESSENTIAL if not inner.get(name)]
    if not missing:
        return ""
    return f"In a container of this engine a worker has no {', '.join(missing)}."


def capabilities(
    facts: Mapping[str, Any], inner: Mapping[str, bool], *, is_gvisor: bool
) -> Capabilities:
    """Put together the engine's ``facts`` and the ``inner`` walls that a worker has tested."""
    options = facts.get("SecurityOptions") or []
    has_profile = any("seccomp" in option for option in options)
    walls = (
        Wall("container", is_up=True),
        Wall("engine-seccomp", has_profile, "" if has_profile else NO_PROFILE),
        Wall("gvisor", is_gvisor, "" if is_gvisor else NO_GVISOR),
        *(Wall(name, is_up, "" if is_up else NOT_INSIDE) for name, is_up in inner.items()),
    )
    reason = down(inner)
    if reason:
        return Capabilities("docker", "none", walls, reason)
    return Capabilities("docker", "gvisor" if is_gvisor else "docker", walls)
