"""Flows: what can be executed."""

from __future__ import annotations

from typing import Any, AsyncIterator, Iterator, Mapping

from ai_spine import _endpoints
from ai_spine._base import AsyncBase, SyncBase
from ai_spine._call import JSON
from ai_spine._pages import PAGE_ITEMS, Pages
from ai_spine._twins import twin_of


class Flows(SyncBase):
    """Flow management."""

    def list_flows(self) -> list[JSON]:
        """List all flows: yours and those of the installation.

        Returns:
            The flows, all pages of them.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> flows = client.list_flows()
            >>> [flow["name"] for flow in flows if flow["flow_id"] == "greeting"]
            ['Greeting']
        """
        return self._take(self._planner.collect(flow_pages(PAGE_ITEMS)))

    def iter_flows(self, page_size: int = PAGE_ITEMS) -> Iterator[JSON]:
        """Walk over all flows, asking for a page when it is needed.

        Args:
            page_size: Flows in one answer, 1 to 100.

        Returns:
            An iterator of flows.

        Raises:
            ValidationError: ``page_size`` is out of bounds.

        Example:
            >>> for flow in client.iter_flows():
            ...     known = flow["flow_id"]
        """
        return self._walk(flow_pages(page_size))

    def list_my_flows(self) -> list[JSON]:
        """List the flows that you wrote.

        Returns:
            The flows, all pages of them.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> flows = client.list_my_flows()
            >>> "greeting" in [flow["flow_id"] for flow in flows]
            True
        """
        return self._take(self._planner.collect(my_flow_pages(PAGE_ITEMS)))

    def get_flow(self, flow_id: str, version: str | None = None) -> JSON:
        """Read a flow.

        Args:
            flow_id: Its id.
            version: An earlier version; the latest when left out.

        Returns:
            The flow with its ``nodes``.

        Raises:
            NotFoundError: There is no such flow.

        Example:
            >>> flow = client.get_flow("greeting")
            >>> [node["id"] for node in flow["nodes"]]
            ['start', 'end']
        """
        return self._send(_endpoints.get_flow(flow_id, version))

    def list_flow_versions(self, flow_id: str) -> list[JSON]:
        """List the versions of a flow.

        Args:
            flow_id: Its id.

        Returns:
            For each its ``version`` and ``created_at``.

        Raises:
            NotFoundError: There is no such flow.

        Example:
            >>> versions = client.list_flow_versions("greeting")
            >>> len(versions) >= 1
            True
        """
        return self._send(_endpoints.list_flow_versions(flow_id))

    def create_flow(self, definition: Mapping[str, Any]) -> JSON:
        """Write a new flow. It is not sent twice, whatever becomes of the answer.

        Args:
            definition: ``flow_id``, ``name`` and ``nodes``; optional ``description``,
                ``version``, ``entry_point``, ``exit_points``, ``metadata``.

        Returns:
            The flow.

        Raises:
            ValidationError: A cycle, an unknown node or agent; ``details`` names it.
            ConflictError: The id is taken.

        Example:
            >>> flow = client.create_flow({
            ...     "flow_id": "echo",
            ...     "name": "Echo",
            ...     "nodes": [
            ...         {"id": "start", "type": "input"},
            ...         {"id": "end", "type": "output", "depends_on": ["start"]},
            ...     ],
            ... })
            >>> flow["entry_point"], flow["exit_points"]
            ('start', ['end'])
            >>> client.delete_flow("echo")
            True
        """
        return self._send(_endpoints.create_flow(definition))

    def update_flow(self, flow_id: str, changes: Mapping[str, Any]) -> JSON:
        """Change a flow of yours. Each change makes a version, so it is sent once.

        Args:
            flow_id: Its id.
            changes: A whole definition, or the fields to replace.

        Returns:
            The flow in its new version.

        Raises:
            ValidationError: The definition is wrong; ``details`` names the node.
            NotFoundError: There is no such flow.
            APIError: It is a flow of the installation (403).

        Example:
            >>> flow = client.update_flow("greeting", {"description": "Says hello."})
            >>> flow["description"]
            'Says hello.'
        """
        return self._send(_endpoints.update_flow(flow_id, changes))

    def delete_flow(self, flow_id: str) -> bool:
        """Delete a flow of yours.

        Args:
            flow_id: Its id.

        Returns:
            Whether there was one.

        Raises:
            APIError: It is a flow of the installation (403).

        Example:
            >>> client.delete_flow("never-written")
            False
        """
        return self._send(_endpoints.delete_flow(flow_id))


@twin_of(Flows)
class AsyncFlows(AsyncBase):
    """Flow management, awaited."""

    async def list_flows(self) -> list[JSON]:
        return await self._take(self._planner.collect(flow_pages(PAGE_ITEMS)))

    def iter_flows(self, page_size: int = PAGE_ITEMS) -> AsyncIterator[JSON]:
        return self._walk(flow_pages(page_size))

    async def list_my_flows(self) -> list[JSON]:
        return await self._take(self._planner.collect(my_flow_pages(PAGE_ITEMS)))

    async def get_flow(self, flow_id: str, version: str | None = None) -> JSON:
        return await self._send(_endpoints.get_flow(flow_id, version))

    async def list_flow_versions(self, flow_id: str) -> list[JSON]:
        return await self._send(_endpoints.list_flow_versions(flow_id))

    async def create_flow(self, definition: Mapping[str, Any]) -> JSON:
        return await self._send(_endpoints.create_flow(definition))

    async def update_flow(self, flow_id: str, changes: Mapping[str, Any]) -> JSON:
        return await self._send(_endpoints.update_flow(flow_id, changes))

    async def delete_flow(self, flow_id: str) -> bool:
        return await self._send(_endpoints.delete_flow(flow_id))


def flow_pages(page_size: int) -> Pages:
    return Pages(_endpoints.list_flows, "flow_id", page_size)


def my_flow_pages(page_size: int) -> Pages:
    return Pages(_endpoints.list_my_flows, "flow_id", page_size)
