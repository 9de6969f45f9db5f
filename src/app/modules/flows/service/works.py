"""What nodes do: ask an agent, ask a language model, run a script."""

import asyncio
import math
from contextlib import suppress
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from app.kernel.errors import AppError, BadUpstream, Invalid, Unavailable, UpstreamTimeout
from app.modules.auth.api import Principal
from app.modules.flows.domain.checks import agent_config, settings_of, task_of
from app.modules.flows.domain.definitions import CodeTask, LlmTask, Node
from app.modules.flows.domain.templates import fill
from app.modules.flows.ports import AgentCall
from app.modules.flows.service.agents import Agents, KnownAgent
from app.modules.routing.api import Completions
from app.modules.sandbox.api import Script, Scripts

SCRIPT_CEILING_S: Final = 600
STOP_S: Final = 2.0
INPUT_FILE: Final = "input.json"


class AgentGone(Invalid):
    """The agent was removed, or switched off, after the execution had begun."""

    title = "Agent gone"


class ModelSilent(UpstreamTimeout):
    """The model did not answer within the node's time."""

    title = "Model silent"


class ScriptFailed(BadUpstream):
    """The node's script did not end well; the text is its last words."""

    title = "Script failed"


class NotHere(Unavailable):
    """This installation has switched off what the node needs."""

    title = "Not switched on"


class Step(msgspec.Struct, frozen=True):
    """One attempt at one node. ``key`` is the same for it in every process."""

    execution_id: UUID
    path: str
    node: Node
    input: dict[str, Any]
    principal: Principal
    within_s: float
    key: str


class About(msgspec.Struct, frozen=True):
    """Whether a node may be done twice when nobody knows whether it was done.

    ``mark`` changes with what does it, so that nothing older answers for it.
    """

    is_safe: bool
    mark: str = ""


class Work(Protocol):
    """One kind of node."""

    async def about(self, principal: Principal, node: Node, /) -> About: ...

    async def do(self, step: Step) -> Any:
        """What the node gives, as JSON; an ``AppError`` says why it gives nothing."""
        ...


class AgentWork:
    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def about(self, principal: Principal, node: Node, /) -> About:
        agent = await self._agent(principal, node)
        declared = settings_of(node).idempotent
        is_safe = agent.is_idempotent if declared is None else declared
        return About(is_safe, f"{agent.address.endpoint} {agent.changed_at.isoformat()}")

    async def do(self, step: Step) -> Any:
        agent = await self._agent(step.principal, step.node)
        call = AgentCall(str(step.execution_id), step.path, step.input, agent_config(step.node))
        return await self._agents.call(agent, call, within_s=step.within_s)

    async def _agent(self, principal: Principal, node: Node) -> KnownAgent:
        found = await self._agents.find(principal.user_id, node.agent_id or "")
        if found is None:
            raise AgentGone(f"There is no active agent {node.agent_id!r} any more.")
        return found


class LlmWork:
    """A call costs money: unless the node says otherwise, it is not made twice."""

    def __init__(self, completions: Completions | None) -> None:
        self._completions = completions

    async def about(self, _: Principal, node: Node, /) -> About:
        return About(bool(settings_of(node).idempotent))

    async def do(self, step: Step) -> Any:
        if self._completions is None:
            raise NotHere("FEATURE_ROUTING is off: nothing here asks language models.")
        task = task_of(step.node)
        assert isinstance(task, LlmTask)  # noqa: S101 - the kind has chosen us
        prompt = fill(task.prompt, step.input)
        system_prompt = fill(task.system_prompt, step.input)
        try:
            async with asyncio.timeout(step.within_s):
                answer = await self._completions.complete(
                    step.principal,
                    task.model,
                    prompt,
                    system_prompt=system_prompt,
                    call_key=str(step.execution_id),
                )
        except TimeoutError:
            raise ModelSilent(f"The model did not answer within {step.within_s:g} s.") from None
        usage = {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}
        return {"text": answer.text, "model": answer.model, "usage": usage}


class CodeWork:
    """A script is started once by its key: whoever comes again waits for the same one."""

    def __init__(self, scripts: Scripts | None) -> None:
        self._scripts = scripts
        self.is_closing = False

    async def about(self, _: Principal, _node: Node, /) -> About:
        return About(is_safe=True)

    async def do(self, step: Step) -> Any:
        if self._scripts is None:
            raise NotHere("FEATURE_SANDBOX is off: nothing here runs scripts.")
        task = task_of(step.node)
        assert isinstance(task, CodeTask)  # noqa: S101 - the kind has chosen us
        script = Script(
            code=task.code,
            project=task.project,
            timeout_s=min(math.ceil(step.within_s), SCRIPT_CEILING_S),
            settings=task.settings,
            memory=task.memory,
            files={INPUT_FILE: msgspec.json.encode(step.input)},
        )
        starting = asyncio.create_task(self._scripts.start(step.principal, script, key=step.key))
        try:
            started = await asyncio.shield(starting)
            end = await self._scripts.wait(step.principal.user_id, started)
        except asyncio.CancelledError:
            if not self.is_closing:
                await self._stop(step.principal.user_id, starting)
            raise
        if end.status != "completed":
            raise ScriptFailed(_last_words(end.error))
        return {"stdout": end.stdout} if end.result is None else end.result

    async def _stop(self, user_id: UUID, starting: "asyncio.Task[UUID]") -> None:
        """End the script, also one that is just being started."""
        assert self._scripts is not None  # noqa: S101 - it has started something
        with suppress(AppError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._scripts.stop(user_id, await starting)


def _last_words(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[-1] if lines else "The script failed without a word."
