"""Agents: who registers one, who may be asked, and how they are.

What is known of an agent is remembered for a few seconds, since an execution asks at each node. An
agent's health is looked at by one process at a time: it claims the agents that are due.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from app.kernel import log
from app.kernel.db import Database, uuid7
from app.kernel.errors import BadUpstream, Unavailable, UpstreamTimeout
from app.kernel.ports import Clock, SingleFlight
from app.modules.auth.api import Principal
from app.modules.flows.domain.agents import (
    AgentTaken,
    NoSuchAgent,
    Registration,
    State,
    TooManyAgents,
    notes_of,
    require_id,
)
from app.modules.flows.models.agents import AgentRow
from app.modules.flows.ports import AgentAddress, AgentCall, AgentOutlet, AgentRefused, Seal
from app.modules.flows.repository.agents import AgentRepository
from app.outbound.addresses import checked_url

AGENTS_LIMIT: Final = 1000
REMEMBERED_FOR: Final = timedelta(seconds=5)
REMEMBERED_LIMIT: Final = 4096
LOOKS_AT_ONCE: Final = 16
LOOK_WITHIN_S: Final = 5.0
# Longer than a look takes: who has claimed an agent and ended is not waited for.
CLAIMED_FOR: Final = timedelta(seconds=4 * LOOK_WITHIN_S)
DUE_EVERY_S: Final = 1.0
# Of each wait, so that agents which were registered together are not looked at together for ever.
JITTER: Final = 0.2
NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)

_log = log.get("flows")


class KnownAgent(msgspec.Struct, frozen=True):
    """An agent that may be asked. ``changed_at`` is when it was registered.

    ``is_token_lost``: its token was sealed by a secret that the installation no longer has.
    """

    address: AgentAddress
    is_idempotent: bool
    changed_at: datetime
    is_token_lost: bool = False


class _Memory(msgspec.Struct, frozen=True):
    agent: KnownAgent
    until: datetime


class Agents:
    """``every_s`` is how often the health of an agent is looked at; ``draw`` a number from 0 to 1
    by which agents are not all looked at together.
    """

    def __init__(
        self,
        db: Database,
        seal: Seal,
        outlet: AgentOutlet,
        clock: Clock,
        *,
        every_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._db = db
        self._seal = seal
        self._outlet = outlet
        self._clock = clock
        self._every_s = every_s
        self._draw = draw
        self._memories: dict[tuple[UUID, str], _Memory] = {}
        self._flights: SingleFlight[KnownAgent | None] = SingleFlight()
        # How often something was forgotten: what was asked for before is not remembered after.
        self._forgotten = 0

    async def register(self, principal: Principal, wanted: Registration) -> AgentRow:
        """Add an agent of the caller's; the owner's may be in a private network.

        ``AgentInvalid``, ``AgentTaken``, ``TooManyAgents``, and what ``checked_url`` raises for an
        endpoint that may not be called.
        """
        row = self._row(principal, wanted)
        async with self._db.begin() as session:
            agents = AgentRepository(session)
            total, _ = await agents.tally(row.user_id)
            if total >= AGENTS_LIMIT:
                raise TooManyAgents(f"You have {AGENTS_LIMIT} agents. Remove one first.")
            if not await agents.add(row):
                text = f"You have an agent {row.agent_id!r} already. Remove it first, or choose "
                raise AgentTaken(text + "another agent_id.", agent_id=row.agent_id)
        self._forget(row.user_id, row.agent_id)
        return row

    async def remove(self, user_id: UUID, agent_id: str) -> None:
        async with self._db.begin() as session:
            if not await AgentRepository(session).remove(user_id, agent_id):
                raise _unknown(agent_id)
        self._forget(user_id, agent_id)

    async def get(self, user_id: UUID, agent_id: str) -> AgentRow:
        async with self._db.read() as session:
            rows = await AgentRepository(session).find(user_id, [agent_id])
        if not rows:
            raise _unknown(agent_id)
        return rows[0]

    async def page(self, user_id: UUID, *, is_active: bool | None = None) -> list[AgentRow]:
        """The user's agents, by id: all, or those that are (not) active."""
        async with self._db.read() as session:
            agents = AgentRepository(session)
            return await agents.page(user_id, is_active=is_active, limit=AGENTS_LIMIT)

    async def tally(self, user_id: UUID) -> tuple[int, int]:
        """How many agents the user has, and how many of them are active."""
        async with self._db.read() as session:
            return await AgentRepository(session).tally(user_id)

    async def test(
        self, principal: Principal, endpoint: str, token: str | None
    ) -> tuple[bool, str]:
        """Whether an agent at ``endpoint`` says that it is ready; else why not.

        Raises what ``checked_url`` raises for an endpoint that may not be called.
        """
        may_be_private = principal.role == "owner"
        url = checked_url(endpoint, may_be_private=may_be_private)
        address = AgentAddress(url, url, token, may_be_private)
        return await self._health(
            KnownAgent(address, is_idempotent=False, changed_at=self._clock())
        )

    async def known(self, user_id: UUID, agent_ids: Collection[str]) -> frozenset[str]:
        """Those of ``agent_ids`` that are active agents of the user's."""
        now = self._clock()
        found = {one for one in agent_ids if self._remembered(user_id, one, now) is not None}
        missing = [one for one in agent_ids if one not in found]
        if missing:
            asked_after = self._forgotten
            async with self._db.read() as session:
                rows = await AgentRepository(session).find(user_id, missing)
            for row in rows:
                if row.is_active:
                    found.add(row.agent_id)
                    self._remember(row, asked_after)
        return frozenset(found)

    async def find(self, user_id: UUID, agent_id: str) -> KnownAgent | None:
        """An active agent of the user's. What other processes changed is seen in 5 s."""
        found = self._remembered(user_id, agent_id, self._clock())
        if found is not None:
            return found
        asked_after = self._forgotten

        async def ask() -> KnownAgent | None:
            async with self._db.read() as session:
                rows = await AgentRepository(session).find(user_id, [agent_id])
            active = [row for row in rows if row.is_active]
            return self._remember(active[0], asked_after) if active else None

        return await self._flights.join((user_id, agent_id, asked_after), ask)

    async def call(self, agent: KnownAgent, call: AgentCall, *, within_s: float) -> Any:
        """The agent's output for a node.

        ``AgentRefused`` if it has not done it; ``AgentBroken`` or ``AgentSilent`` if nobody knows.
        """
        return await self._outlet.execute(_reachable(agent), call, within_s=within_s)

    async def watch(self) -> None:
        """Look at the health of every agent that is due, until cancelled."""
        looks: set[asyncio.Task[None]] = set()
        try:
            while True:
                free = LOOKS_AT_ONCE - len(looks)
                rows = await self._due(free)
                looks |= {asyncio.create_task(self._look(row)) for row in rows}
                if len(rows) == free:
                    _, looks = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(self._jittered(DUE_EVERY_S))
                    looks = {look for look in looks if not look.done()}
        finally:
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _due(self, limit: int) -> list[AgentRow]:
        """Claim agents that are to be looked at now."""
        now = self._clock()
        try:
            async with self._db.read() as session:
                has_due = await AgentRepository(session).has_due(now)
            if not has_due:
                return []
            async with self._db.begin() as session:
                return await AgentRepository(session).claim(now, now + CLAIMED_FOR, limit)
        except Unavailable:
            _log.warning("flows.agents-wait-for-database")
        except Exception as error:  # noqa: BLE001 - the agents stay as they are, the loop goes on
            _log.exception("flows.agents-failed", error)
        return []

    async def _look(self, row: AgentRow) -> None:
        """Find out how an agent is, and keep it. One that was claimed in vain is due again."""
        try:
            is_well, why = await self._health(self._known(row))
            state: State = "healthy" if is_well else "unhealthy"
            if state != row.state:
                _log.info("flows.agent-changed", agent_id=row.agent_id, state=state, why=why)
            now = self._clock()
            look_at = now + timedelta(seconds=self._jittered(self._every_s))
            async with self._db.begin() as session:
                await AgentRepository(session).note(row, state, now, look_at)
        except Unavailable:
            _log.warning("flows.agents-wait-for-database")
        except Exception as error:  # noqa: BLE001 - of this agent nothing is known, others are next
            _log.exception("flows.agent-look-failed", error, agent_id=row.agent_id)

    async def _health(self, agent: KnownAgent) -> tuple[bool, str]:
        try:
            said = await self._outlet.health(_reachable(agent), within_s=LOOK_WITHIN_S)
        except (BadUpstream, UpstreamTimeout) as error:
            return False, str(error)
        if said.get("ready") is False:
            return False, "The agent answers that it is not ready."
        return True, "The agent is ready."

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + JITTER * (2 * self._draw() - 1))

    def _row(self, principal: Principal, wanted: Registration) -> AgentRow:
        may_be_private = principal.role == "owner"
        now = self._clock()
        sealed = None
        if wanted.token is not None:
            context = _context(principal.user_id, wanted.agent_id)
            sealed = self._seal.seal(wanted.token.encode(), context)
        return AgentRow(
            **notes_of(wanted),
            id=uuid7(),
            user_id=principal.user_id,
            agent_id=require_id(wanted.agent_id),
            name=wanted.name,
            description=wanted.description,
            endpoint=checked_url(wanted.endpoint, may_be_private=may_be_private),
            agent_type=wanted.agent_type,
            capabilities=list(dict.fromkeys(wanted.capabilities)),
            token=sealed,
            is_active=wanted.is_active,
            is_idempotent=wanted.is_idempotent,
            may_be_private=may_be_private,
            state="unknown",
            look_at=now if wanted.is_active else NEVER,
            created_at=now,
            updated_at=now,
        )

    def _known(self, row: AgentRow) -> KnownAgent:
        token = None
        if row.token is not None:
            token = self._seal.unseal(row.token, _context(row.user_id, row.agent_id))
        address = AgentAddress(
            agent_id=row.agent_id,
            endpoint=row.endpoint,
            token=None if token is None else token.decode(),
            may_be_private=row.may_be_private,
        )
        is_lost = row.token is not None and token is None
        return KnownAgent(address, row.is_idempotent, row.created_at, is_lost)

    def _remembered(self, user_id: UUID, agent_id: str, now: datetime) -> KnownAgent | None:
        memory = self._memories.get((user_id, agent_id))
        return None if memory is None or memory.until <= now else memory.agent

    def _remember(self, row: AgentRow, asked_after: int) -> KnownAgent:
        agent = self._known(row)
        if asked_after == self._forgotten:
            if len(self._memories) >= REMEMBERED_LIMIT:
                self._memories.clear()
            until = self._clock() + REMEMBERED_FOR
            self._memories[row.user_id, row.agent_id] = _Memory(agent, until)
        return agent

    def _forget(self, user_id: UUID, agent_id: str) -> None:
        self._forgotten += 1
        self._memories.pop((user_id, agent_id), None)


def _reachable(agent: KnownAgent) -> AgentAddress:
    """Where to call an agent: never without the token that it was registered with."""
    if agent.is_token_lost:
        text = f"The token of the agent {agent.address.agent_id!r} was sealed by a secret that "
        raise AgentRefused(text + "APP_SECRET no longer has. Register the agent again.")
    return agent.address


def _unknown(agent_id: str) -> NoSuchAgent:
    text = f"You have no agent {agent_id[:100]!r}; GET /agents lists those that you have."
    return NoSuchAgent(text, agent_id=agent_id[:100])


def _context(user_id: UUID, agent_id: str) -> bytes:
    """What a sealed token belongs to, so that it is of no use in another agent's row."""
    return b"agent-token:" + user_id.bytes + agent_id.encode()
