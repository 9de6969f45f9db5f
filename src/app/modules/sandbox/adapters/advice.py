"""What to install or to allow on a machine, so that it isolates scripts better."""

from collections.abc import Iterator
from textwrap import fill, indent
from typing import Final

import msgspec

from app.modules.sandbox.ports import Capabilities

COLUMNS: Final = 90
GVISOR: Final = "runsc"
RESTRICTED: Final = "kernel.apparmor_restrict_unprivileged_userns"
DEBIAN_SWITCH: Final = "kernel.unprivileged_userns_clone"
MOST: Final = "user.max_user_namespaces"

NOT_LINUX: Final = (
    "The jail needs Linux. Install Docker Desktop, or run the server in a Linux machine (on "
    "Windows: in WSL 2)."
)
NO_LANDLOCK: Final = (
    "Landlock is missing: it needs Linux 5.13 or newer that was built with it, and `landlock` in "
    "the kernel's parameter lsm= where that is given. In a container it is the seccomp profile "
    "that must let landlock_create_ruleset, landlock_add_rule and landlock_restrict_self pass: "
    "Docker's own does from version 23 on, another one is given by "
    "--security-opt seccomp=PROFILE.json. gVisor has no Landlock."
)
IN_CONTAINER: Final = (
    "This is a container, which may make no namespaces of its own: tier B is what it gets. For "
    "tier A run the server on the host; or give it a Docker engine by DOCKER_HOST, which is as "
    "good as root on the machine of that engine."
)
BY_APPARMOR: Final = """\
AppArmor takes the rights in new user namespaces from programs that no profile allows them to.
Allow them to the Python of the jail, in /etc/apparmor.d/insula-jail:

{profile}

and load it: sudo apparmor_parser -r /etc/apparmor.d/insula-jail
Every program that this Python runs may then make user namespaces: give the server a Python of
its own. Do not switch the restriction off for the whole machine."""
PROFILE: Final = """\
abi <abi/4.0>,
include <tunables/global>

profile insula-jail "{python}" flags=(unconfined) {{
  userns,
  include if exists <local/insula-jail>
}}"""
BY_DEBIAN: Final = f"This kernel keeps user namespaces to root: sudo sysctl -w {DEBIAN_SWITCH}=1"
BY_NUMBER: Final = f"No user namespaces are allowed: sudo sysctl -w {MOST}=10000"
NO_DOCKER: Final = (
    "A Docker engine isolates scripts too, better than tier B: install it, start it, let this user "
    "reach it, and set DOCKER_HOST if it is not where the docker command finds it."
)
NO_GVISOR: Final = (
    "Docker's containers share this kernel. Install gVisor's runsc and register it with the "
    "engine (`sudo runsc install`, then restart Docker): scripts get a kernel of their own."
)


class Machine(msgspec.Struct, frozen=True):
    """What is known of a machine. ``python`` is the jail's; ``sysctls`` what limits namespaces."""

    system: str
    is_linux: bool
    is_root: bool
    is_container: bool
    python: str
    sysctls: dict[str, str] = {}


class DockerFound(msgspec.Struct, frozen=True):
    """A Docker engine. ``tier`` is ``none`` where none can be used, for ``reason``."""

    tier: str = "none"
    version: str = ""
    runtimes: tuple[str, ...] = ()
    reason: str = ""


def advice(machine: Machine, jail: Capabilities, docker: DockerFound) -> list[str]:
    """Paragraphs, the one that helps most first; none where nothing better is known."""
    found = [*_on_jail(machine, jail), *_on_docker(jail, docker)]
    return [_paragraph(text) for text in found]


def _paragraph(text: str) -> str:
    """As an item of a list. What has lines already keeps them: it is there to be copied."""
    lines = text if "\n" in text else fill(text, COLUMNS)
    return "- " + indent(lines, "  ").lstrip()


def _on_jail(machine: Machine, jail: Capabilities) -> Iterator[str]:
    if not machine.is_linux:
        yield NOT_LINUX
        return
    missing = {wall.name for wall in jail.walls if not wall.is_up}
    if "landlock" in missing:
        yield NO_LANDLOCK
    if "namespaces" in missing:
        yield from _on_namespaces(machine)


def _on_namespaces(machine: Machine) -> Iterator[str]:
    if machine.sysctls.get(MOST) == "0":
        yield BY_NUMBER
    if not machine.is_root and machine.sysctls.get(DEBIAN_SWITCH) == "0":
        yield BY_DEBIAN
    if machine.is_container:
        yield IN_CONTAINER
    elif not machine.is_root and machine.sysctls.get(RESTRICTED) == "1":
        yield BY_APPARMOR.format(profile=indent(PROFILE.format(python=machine.python), "    "))


def _on_docker(jail: Capabilities, docker: DockerFound) -> Iterator[str]:
    if docker.tier == "docker" and GVISOR not in docker.runtimes:
        yield NO_GVISOR
    elif docker.tier == "none" and jail.tier != "A":
        yield NO_DOCKER
