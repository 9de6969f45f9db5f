"""Agents: the workers that nodes call."""

from __future__ import annotations

from typing import Any, Mapping

from ai_spine import _endpoints
from ai_spine._base import AsyncBase, SyncBase
from ai_spine._call import JSON
from ai_spine._twins import twin_of


class Agents(SyncBase):
    """Agent management. There is no update: delete an agent and create it again."""

    def list_agents(self) -> list[JSON]:
        """List all agents.

        Returns:
            The agents.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> agents = client.list_agents()
            >>> "helper" in [agent["agent_id"] for agent in agents]
            True
        """
        return self._send(_endpoints.list_agents())

    def list_active_agents(self) -> list[JSON]:
        """List the agents that nodes may call.

        Returns:
            The agents.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> agents = client.list_active_agents()
            >>> all(agent["is_active"] for agent in agents)
            True
        """
        return self._send(_endpoints.list_active_agents())

    def list_my_agents(self) -> list[JSON]:
        """List the agents that you created.

        Returns:
            The agents.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> agents = client.list_my_agents()
            >>> "helper" in [agent["agent_id"] for agent in agents]
            True
        """
        return self._send(_endpoints.list_my_agents())

    def get_agent(self, agent_id: str) -> JSON:
        """Read an agent.

        Args:
            agent_id: Its id.

        Returns:
            The agent, without its token.

        Raises:
            NotFoundError: There is no such agent.

        Example:
            >>> agent = client.get_agent("helper")
            >>> agent["name"]
            'Helper'
        """
        return self._send(_endpoints.get_agent(agent_id))

    def create_agent(self, agent_config: Mapping[str, Any]) -> JSON:
        """Register an agent. It is not sent twice, whatever becomes of the answer.

        Args:
            agent_config: ``agent_id``, ``name`` and ``endpoint``; optional
                ``description``, ``capabilities``, ``agent_type``, ``is_active``,
                ``is_idempotent``, ``token`` and others.

        Returns:
            The agent, without its token.

        Raises:
            ValidationError: A field is wrong.
            ConflictError: The id is taken.

        Example:
            >>> agent = client.create_agent({
            ...     "agent_id": "risk",
            ...     "name": "Risk",
            ...     "endpoint": "http://127.0.0.1:9/risk",
            ...     "capabilities": ["risk_assessment"],
            ... })
            >>> agent["is_active"]
            True
            >>> client.delete_agent("risk")
            True
        """
        return self._send(_endpoints.create_agent(agent_config))

    def delete_agent(self, agent_id: str) -> bool:
        """Delete an agent of yours.

        Args:
            agent_id: Its id.

        Returns:
            Whether there was one.

        Raises:
            APIError: It is an agent of the installation (403).

        Example:
            >>> client.delete_agent("never-created")
            False
        """
        return self._send(_endpoints.delete_agent(agent_id))

    def test_agent(self, endpoint: str, token: str | None = None) -> JSON:
        """Let the server ask an agent how it is, before you create it.

        Args:
            endpoint: The address of the agent.
            token: What the server shows to it.

        Returns:
            ``connected`` and a ``message``.

        Raises:
            ValidationError: The address is not allowed.

        Example:
            >>> answer = client.test_agent("http://127.0.0.1:9")
            >>> answer["connected"]
            False
        """
        return self._send(_endpoints.test_agent(endpoint, token))


@twin_of(Agents)
class AsyncAgents(AsyncBase):
    """Agent management, awaited."""

    async def list_agents(self) -> list[JSON]:
        return await self._send(_endpoints.list_agents())

    async def list_active_agents(self) -> list[JSON]:
        return await self._send(_endpoints.list_active_agents())

    async def list_my_agents(self) -> list[JSON]:
        return await self._send(_endpoints.list_my_agents())

    async def get_agent(self, agent_id: str) -> JSON:
        return await self._send(_endpoints.get_agent(agent_id))

    async def create_agent(self, agent_config: Mapping[str, Any]) -> JSON:
        return await self._send(_endpoints.create_agent(agent_config))

    async def delete_agent(self, agent_id: str) -> bool:
        return await self._send(_endpoints.delete_agent(agent_id))

    async def test_agent(self, endpoint: str, token: str | None = None) -> JSON:
        return await self._send(_endpoints.test_agent(endpoint, token))
