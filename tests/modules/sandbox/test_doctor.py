"""``insula sandbox doctor``: on this machine for real, and what it makes of other ones."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.kernel.settings import load
from app.modules.sandbox.adapters.advice import DockerFound, Machine, advice
from app.modules.sandbox.adapters.cli import add_arguments, command
from app.modules.sandbox.adapters.doctor import ask_engine, choose, examine
from app.modules.sandbox.ports import Capabilities, Wall
from app.modules.sandbox.settings import SandboxSettings

MACHINE = Machine("Linux 6.8 x86_64", True, False, False, "/opt/insula/bin/python3.12")
LANDLOCK = Wall("landlock", is_up=False, why="Not there.")
NAMESPACES = Wall("namespaces", is_up=False, why="Refused.")
TIER_A = Capabilities("jail", "A")
TIER_B = Capabilities("jail", "B", (NAMESPACES,))
NONE = Capabilities("jail", "none", (LANDLOCK, NAMESPACES), "Nothing works.")
GVISOR = DockerFound("gvisor", "27.1", ("runc", "runsc"))
DOCKER = DockerFound("docker", "27.1", ("runc",))


def machine(**changes: object) -> Machine:
    known = {name: getattr(MACHINE, name) for name in MACHINE.__struct_fields__}
    return Machine(**{**known, **changes})


class TestAdvice:
    def test_is_silent_where_nothing_is_better(self):
        assert advice(MACHINE, TIER_A, DockerFound()) == []
        assert advice(MACHINE, TIER_A, GVISOR) == []

    @pytest.mark.parametrize(
        ("known", "jail", "docker", "told"),
        [
            ({"is_linux": False}, NONE, DockerFound(), "Docker Desktop"),
            ({}, NONE, GVISOR, "landlock_restrict_self"),
            ({"is_container": True}, TIER_B, GVISOR, "This is a container"),
            ({"sysctls": {"user.max_user_namespaces": "0"}}, TIER_B, GVISOR, "sysctl -w user.max"),
            (
                {"sysctls": {"kernel.unprivileged_userns_clone": "0"}},
                TIER_B,
                GVISOR,
                "userns_clone=1",
            ),
            ({}, TIER_B, DockerFound(), "set DOCKER_HOST"),
            ({}, TIER_A, DOCKER, "runsc install"),
        ],
    )
    def test_names_what_helps(self, known, jail, docker, told):
        paragraphs = advice(machine(**known), jail, docker)

        assert told in " ".join(" ".join(paragraphs).split())

    def test_has_a_profile_for_apparmor(self):
        restricted = machine(sysctls={"kernel.apparmor_restrict_unprivileged_userns": "1"})

        (paragraph,) = advice(restricted, TIER_B, GVISOR)

        assert 'profile insula-jail "/opt/insula/bin/python3.12" flags=(unconfined) {' in paragraph
        assert "userns," in paragraph
        assert "restrict_unprivileged_userns=0" not in paragraph


class Engine:
    """As much of a Docker engine as is asked about itself."""

    def __init__(self, **facts: object) -> None:
        self._facts = {
            "ServerVersion": "27.1",
            "Runtimes": {"runc": {}},
            "MemoryLimit": True,
            "PidsLimit": True,
            "CpuCfsQuota": True,
            **facts,
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/version", self._version)
        app.router.add_get("/{version}/info", self._info)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"tcp://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": "1.43"})

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response(self._facts)


NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


class TestAskEngine:
    @pytest.mark.parametrize(
        ("runtimes", "wanted", "tier"),
        [
            (["runc"], "auto", "docker"),
            (["runc", "runsc"], "auto", "gvisor"),
            (["runc", "runsc"], "runc", "docker"),
            (["runc", "runsc"], "runsc", "gvisor"),
        ],
    )
    async def test_finds_the_strongest_runtime_that_is_wanted(self, runtimes, wanted, tier):
        engine = Engine(Runtimes={name: {} for name in runtimes})

        async with engine.open() as host:
            found = await ask_engine({"DOCKER_HOST": host}, wanted)

        assert found == DockerFound(tier, "27.1", tuple(runtimes))

    @pytest.mark.parametrize(
        ("facts", "wanted", "told"),
        [
            ({}, "runsc", "has no runtime runsc"),
            ({"PidsLimit": False}, "auto", "cannot limit processes"),
        ],
    )
    async def test_says_why_an_engine_is_of_no_use(self, facts, wanted, told):
        async with Engine(**facts).open() as host:
            found = await ask_engine({"DOCKER_HOST": host}, wanted)

        assert found.tier == "none"
        assert told in found.reason

    async def test_says_that_there_is_none(self):
        found = await ask_engine(NO_ENGINE, "auto")

        assert found.tier == "none"
        assert "does not answer" in found.reason


class TestChoose:
    @pytest.mark.parametrize(
        ("environ", "jail", "docker", "tier"),
        [
            ({}, "A", "gvisor", "A"),
            ({}, "none", "docker", "docker"),
            ({}, "none", "none", "none"),
            ({"SANDBOX_MIN_TIER": "A"}, "B", "docker", "docker"),
            ({"SANDBOX_MIN_TIER": "gvisor"}, "A", "docker", "none"),
            ({"SANDBOX_RUNNER": "jail"}, "none", "docker", "none"),
            ({"SANDBOX_RUNNER": "docker"}, "A", "docker", "docker"),
        ],
    )
    def test_takes_the_first_that_is_good_enough(self, environ, jail, docker, tier):
        settings = load(SandboxSettings, environ)

        assert choose(settings, jail, docker) == tier


@pytest.mark.slow
class TestDoctor:
    async def test_tells_the_truth_about_this_machine(self):
        report = await examine(NO_ENGINE)

        assert ("Scripts  run in tier" in report.text) == report.is_isolated
        assert ("It was started and tried from the inside" in report.text) == report.is_isolated
        assert "WALL" in report.text
        assert "The Docker engine does not answer" in report.text

    async def test_starts_the_tier_that_is_asked_for(self):
        report = await examine({**NO_ENGINE, "SANDBOX_JAIL_TIER": "B"})

        assert "Jail     Tier B" in report.text or "Jail     None. Tier B" in report.text

    async def test_exits_with_1_where_nothing_isolates(self, capsys):
        environ = {**NO_ENGINE, "SANDBOX_RUNNER": "docker"}
        parser = argparse.ArgumentParser()
        add_arguments(parser)

        with pytest.raises(SystemExit) as left:
            await command(environ, parser.parse_args(["doctor"]))

        assert left.value.code == 1
        assert "Scripts  are refused" in capsys.readouterr().out
