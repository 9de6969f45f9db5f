"""Takes one flow from its input to its output."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from app.kernel.errors import (
    AppError,
    BadUpstream,
    TooLarge,
    TooMany,
    Unavailable,
    UpstreamTimeout,
)
from app.kernel.ports import Cache
from app.modules.auth.api import Principal
from app.modules.flows.domain.checks import settings_of
from app.modules.flows.domain.definitions import Flow, Node, NodeKind, NodeSettings, Plan
from app.modules.flows.domain.executions import NodeState, Order
from app.modules.flows.domain.graph import Progress
from app.modules.flows.ports import AgentBroken, AgentSilent
from app.modules.flows.service.journal import Entry, Journal
from app.modules.flows.service.places import Places
from app.modules.flows.service.works import About, Step, Work

OUTPUT_LIMIT_BYTES: Final = 4 * 2**20
OUTPUTS_LIMIT_BYTES: Final = 16 * 2**20
CACHED_LIMIT_BYTES: Final = 256 * 1024
ERROR_LIMIT_CHARS: Final = 2000
# What may go well the next time.
PASSING: Final = (BadUpstream, UpstreamTimeout, Unavailable, TooMany)
# The node may have been done all the same.
OPEN: Final = (AgentBroken, AgentSilent)


class NodeFailed(AppError):
    """A node gave nothing, and so does its execution. The text names the node and says why."""

    title = "Node failed"


class OutputTooLarge(TooLarge):
    """A node gave more than is kept."""

    title = "Output too large"


class Given(msgspec.Struct, frozen=True):
    """What a node gave. ``raw`` is ``output`` as JSON."""

    output: Any
    raw: bytes
    attempts: int
    is_cached: bool
    duration_ms: int


class Setting(msgspec.Struct, frozen=True):
    """What all nodes of one execution share. ``known`` are states of before a crash, by path."""

    execution_id: UUID
    plan: Plan
    order: Order
    principal: Principal
    journal: Journal
    works: Mapping[NodeKind, Work]
    places: Places
    cache: Cache
    clock: Callable[[], datetime]
    known: Mapping[str, NodeState]
    kept: list[int]


class Walk:
    """One flow of an execution. ``prefix`` is the path of the node that it is, with a slash."""

    def __init__(
        self, setting: Setting, flow: Flow, flow_input: dict[str, Any], prefix: str = ""
    ) -> None:
        self._setting = setting
        self._prefix = prefix
        self._progress = Progress(flow, flow_input, setting.order.metadata)
        self._tasks: dict[asyncio.Task[Given], tuple[Node, str]] = {}
        self._begun: dict[str, datetime] = {}
        for node in flow.nodes:
            self._recall(node)
        self._progress.resume()

    async def run(self) -> dict[str, Any]:
        """Do every node, each when those before it are done; what the exits gave."""
        try:
            while await self._advance():
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                self._settle_all([task for task in self._tasks if task.done()])
        finally:
            await self._stop()
        return self._progress.result()

    async def _advance(self) -> bool:
        """Begin what can be begun; whether anything is at work."""
        ready = self._take()
        begun = []
        for node in ready:
            effect = await self._begin(node)
            begun.append((node, effect))
        if begun or self._tasks:
            # What the last nodes gave is written with the end, which comes next.
            await self._setting.journal.keep()
        for node, effect in begun:
            task = asyncio.create_task(self._do(node, self._progress.input_of(node)))
            self._tasks[task] = node, effect
        return bool(self._tasks)

    def _take(self) -> list[Node]:
        """The nodes that something has to be done for; the others are done here, one after the
        other.
        """
        working: list[Node] = []
        while True:
            ready, skipped = self._progress.take()
            for node in skipped:
                self._note(node, "skipped")
            passing = [node for node in ready if node.work is None]
            working += [node for node in ready if node.work is not None]
            if not passing:
                return working
            for node in passing:
                self._pass_on(node)

    def _pass_on(self, node: Node) -> None:
        given = self._progress.input_of(node)
        try:
            raw = self._kept(given)
            self._progress.settle(node, given)
        except AppError as error:
            raise self._failed(node, error, "") from error
        self._note(node, "completed", output=raw)

    async def _begin(self, node: Node) -> str:
        """Note that a node is at work; the key of its effect, if it may not be done twice."""
        try:
            about = await self._about(node)
        except AppError as error:
            raise self._failed(node, error, "") from error
        self._begun[node.id] = self._setting.clock()
        former = self._setting.known.get(self._prefix + node.id)
        attempts = (former.attempts if former else 0) + 1
        effect = "" if about.is_safe else _effect(self._prefix + node.id, attempts)
        self._note(node, "running", effect, attempts=attempts)
        return effect

    async def _about(self, node: Node) -> About:
        if node.work is None or node.work == "flow":
            return About(is_safe=True)
        return await self._setting.works[node.work].about(self._setting.principal, node)

    async def _do(self, node: Node, given: dict[str, Any]) -> Given:
        """Do one node, as often as it may be tried."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        settings = settings_of(node)
        attempt = 0
        while True:
            attempt += 1
            try:
                output, is_cached = await self._attempt(node, given, settings, attempt)
                took_ms = round((loop.time() - since) * 1000)
                return Given(output, self._kept(output), attempt, is_cached, took_ms)
            except AppError as error:
                if attempt >= settings.retry.attempts or not await self._may_retry(node, error):
                    raise
            await asyncio.sleep(_pause_s(settings, attempt))

    async def _attempt(
        self, node: Node, given: dict[str, Any], settings: NodeSettings, attempt: int
    ) -> tuple[Any, bool]:
        """What the node gives, and whether it was known already."""
        setting = self._setting
        path = self._prefix + node.id
        if node.work == "flow":
            return await self._inner(node, given, settings), False
        key = await self._cache_key(node, given) if settings.cache else ""
        if key and (known := await setting.cache.get(key)) is not None:
            return msgspec.json.decode(known), True
        assert node.work is not None  # noqa: S101 - those without have been passed on
        step = Step(
            execution_id=setting.execution_id,
            path=path,
            node=node,
            input=given,
            principal=setting.principal,
            within_s=settings.timeout,
            key=f"flow:{setting.execution_id}:{path}:{attempt}",
        )
        async with setting.places.at(setting.order.priority):
            output = await setting.works[node.work].do(step)
        if settings.cache:
            raw = msgspec.json.encode(output)
            if len(raw) <= CACHED_LIMIT_BYTES:
                await setting.cache.set(key, raw, ttl_s=settings.cache.ttl_s)
        return output, False

    async def _inner(self, node: Node, given: dict[str, Any], settings: NodeSettings) -> Any:
        """Another flow in this node's place. Its time is limited only where the node says so."""
        path = self._prefix + node.id
        walk = Walk(self._setting, self._setting.plan.inner[path], given, f"{path}/")
        within_s = settings.timeout if "timeout" in node.config else None
        try:
            async with asyncio.timeout(within_s) as clock:
                return await walk.run()
        except TimeoutError:
            if not clock.expired():
                raise
            raise NodeFailed(f"{path} took longer than {within_s:g} s.", node=path) from None

    async def _may_retry(self, node: Node, error: AppError) -> bool:
        if not isinstance(error, PASSING):
            return False
        return not isinstance(error, OPEN) or (await self._about(node)).is_safe

    def _settle_all(self, tasks: "list[asyncio.Task[Given]]") -> None:
        """Note what each gave, also beside one that failed."""
        failures = []
        for task in tasks:
            node, effect = self._tasks.pop(task)
            try:
                self._settle(node, effect, task)
            except NodeFailed as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _settle(self, node: Node, effect: str, task: "asyncio.Task[Given]") -> None:
        try:
            given = task.result()
            self._progress.settle(node, given.output)
        except AppError as error:
            raise self._failed(node, error, effect) from error
        self._note(
            node,
            "completed",
            effect,
            attempts=given.attempts,
            is_cached=given.is_cached,
            output=given.raw,
            duration_ms=given.duration_ms,
        )

    def _failed(self, node: Node, error: AppError, effect: str) -> NodeFailed:
        if isinstance(error, NodeFailed):
            self._note(node, "failed", effect, error=str(error)[:ERROR_LIMIT_CHARS])
            return error
        text = str(error)[:ERROR_LIMIT_CHARS]
        self._note(node, "failed", effect, error=text)
        path = self._prefix + node.id
        return NodeFailed(f"{path}: {text}", node=path)

    def _note(self, node: Node, status: Any, effect: str = "", **more: Any) -> None:
        begun_at = self._begun.get(node.id)
        at = self._setting.clock()
        state = NodeState(self._prefix + node.id, status, at, begun_at=begun_at, **more)
        self._setting.journal.note(Entry(state, effect))

    def _recall(self, node: Node) -> None:
        """Take up what a node gave before a crash."""
        state = self._setting.known.get(self._prefix + node.id)
        if state is None:
            return
        if state.status == "skipped":
            self._progress.skip(node)
        elif state.status == "completed" and state.output is not None:
            self._setting.kept[0] += len(state.output)
            self._progress.recall(node, msgspec.json.decode(state.output))

    def _kept(self, output: Any) -> bytes:
        """An output as JSON, counted against what one execution may keep."""
        raw = msgspec.json.encode(output)
        self._setting.kept[0] += len(raw)
        if len(raw) > OUTPUT_LIMIT_BYTES or self._setting.kept[0] > OUTPUTS_LIMIT_BYTES:
            limit_mb = OUTPUT_LIMIT_BYTES // 2**20, OUTPUTS_LIMIT_BYTES // 2**20
            text = f"An output has at most {limit_mb[0]} MiB, and all of them {limit_mb[1]} MiB."
            raise OutputTooLarge(text)
        return raw

    async def _cache_key(self, node: Node, given: dict[str, Any]) -> str:
        mark = (await self._about(node)).mark
        told = [self._setting.principal.user_id, node.work, node.agent_id, mark, node.config, given]
        return f"flows:{hashlib.sha256(msgspec.json.encode(told, order='sorted')).hexdigest()}"

    async def _stop(self) -> None:
        """Nobody waits for these any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _effect(path: str, attempt: int) -> str:
    return f"{path}#{attempt}"


def _pause_s(settings: NodeSettings, attempt: int) -> float:
    return settings.retry.backoff_s * settings.retry.factor ** (attempt - 1)
