"""Chooses what runs scripts, and where projects and their packages come from."""

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from app.kernel.keys import AesGcmSeal
from app.kernel.module import Kit
from app.kernel.settings import Secret
from app.modules.sandbox.adapters.first import FirstRunner
from app.modules.sandbox.adapters.heartbeats import Heartbeats
from app.modules.sandbox.adapters.project_files import YamlProjectFiles
from app.modules.sandbox.ports import Runner
from app.modules.sandbox.settings import SandboxSettings

FOLDER: Final = "sandbox"


def open_runner(
    settings: SandboxSettings, kit: Kit, heartbeats: Heartbeats, environ: Mapping[str, str]
) -> Runner:
    """The runners that the settings allow, best liked first. Nothing is started."""
    folder = Path(kit.house.data_dir) / FOLDER

    def jail() -> Runner:
        from app.modules.sandbox.adapters.installer import Terms
        from app.modules.sandbox.adapters.jail.runner import JailRunner
        from app.modules.sandbox.adapters.package_index import Index
        from app.modules.sandbox.adapters.packages import PackageSets

        packages = PackageSets(
            str(folder / "packages"),
            python=getattr(sys, "_base_executable", sys.executable),
            index=Index(settings.index_url, environ),
            terms=Terms(timeout_s=settings.build_timeout_s),
        )
        forced = None if settings.jail_tier == "auto" else settings.jail_tier
        least: Literal["A", "B"] = "B" if settings.min_tier == "B" else "A"
        return JailRunner(folder, packages, min_tier=least, forced=forced)

    def docker() -> Runner:
        from app.modules.sandbox.adapters.docker.options import DockerOptions
        from app.modules.sandbox.adapters.docker.runner import DockerRunner

        options = DockerOptions(
            image=settings.docker_image,
            runtime=settings.docker_runtime,
            index_url=Secret(settings.index_url),
            build_network=settings.docker_build_network,
            build_timeout_s=settings.build_timeout_s,
        )
        variables = {name: value for name, value in environ.items() if name.startswith("DOCKER_")}
        if settings.docker_host:
            variables["DOCKER_HOST"] = settings.docker_host
        return DockerRunner(options, heartbeats.instance, heartbeats.is_alive, variables)

    makers = {"auto": (jail, docker), "jail": (jail,), "docker": (docker,)}
    return FirstRunner(makers[settings.runner], settings.min_tier)


def open_heartbeats(kit: Kit) -> Heartbeats:
    """Who of this installation is alive: what others have left behind may be removed."""
    installation = kit.keys.derive("sandbox-installation", length=8).hex()
    return Heartbeats(kit.cache, installation, secrets.token_hex(8))


def open_project_files(settings: SandboxSettings, kit: Kit) -> YamlProjectFiles:
    default = Path(kit.house.data_dir) / "projects"
    return YamlProjectFiles(settings.projects_dir or str(default))


def open_seal(kit: Kit) -> AesGcmSeal:
    return AesGcmSeal(kit.keys, "sandbox-sealing")
