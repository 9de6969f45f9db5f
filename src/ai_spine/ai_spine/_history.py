"""What executions there were, and what happened in them."""

from __future__ import annotations

from typing import AsyncIterator, Iterator

from ai_spine import _endpoints
from ai_spine._base import AsyncBase, SyncBase
from ai_spine._call import JSON
from ai_spine._pages import PAGE_ITEMS, Pages
from ai_spine._twins import twin_of


class History(SyncBase):
    """Executions in lists and in detail."""

    def list_executions(
        self,
        flow_id: str | None = None,
        status: str | None = None,
        limit: int = PAGE_ITEMS,
        offset: int = 0,
    ) -> list[JSON]:
        """List a page of your executions, the newest first.

        Args:
            flow_id: Only those of this flow.
            status: Only those in this state.
            limit: 1 to 500.
            offset: How many to leave out.

        Returns:
            The executions, without their ``node_results``.

        Raises:
            ValidationError: ``limit`` or ``offset`` is out of bounds.

        Example:
            >>> execution = client.execute_and_wait("greeting", {"name": "Ada"})
            >>> page = client.list_executions("greeting", "completed", limit=1)
            >>> len(page)
            1
        """
        return self._send(_endpoints.list_executions(flow_id, status, limit, offset))

    def iter_executions(
        self,
        flow_id: str | None = None,
        status: str | None = None,
        page_size: int = PAGE_ITEMS,
    ) -> Iterator[JSON]:
        """Walk over your executions, the newest first, asking for pages as needed.

        Args:
            flow_id: Only those of this flow.
            status: Only those in this state.
            page_size: Executions in one answer, 1 to 500.

        Returns:
            An iterator of executions; each comes once.

        Raises:
            ValidationError: ``page_size`` is out of bounds.

        Example:
            >>> for execution in client.iter_executions("greeting"):
            ...     state = execution["status"]
        """
        return self._walk(_execution_pages(flow_id, status, page_size))

    def get_execution_results(self, execution_id: str) -> JSON:
        """Read an execution with the results of all its nodes.

        Args:
            execution_id: Its id.

        Returns:
            ``execution``, ``node_results`` (a list) and ``count``.

        Raises:
            NotFoundError: There is no such execution.

        Example:
            >>> execution = client.execute_and_wait("greeting", {"name": "Ada"})
            >>> results = client.get_execution_results(execution["execution_id"])
            >>> sorted(node["node_id"] for node in results["node_results"])
            ['end', 'start']
        """
        return self._send(_endpoints.get_execution_results(execution_id))

    def list_messages(
        self, execution_id: str, limit: int = PAGE_ITEMS, offset: int = 0
    ) -> list[JSON]:
        """List a page of what nodes and agents said to each other.

        Args:
            execution_id: The execution.
            limit: 1 to 500.
            offset: How many to leave out.

        Returns:
            The messages: ``node_id``, ``direction``, ``content``, ``created_at``, ...

        Raises:
            NotFoundError: There is no such execution.

        Example:
            >>> execution = client.execute_and_wait("greeting", {"name": "Ada"})
            >>> messages = client.list_messages(execution["execution_id"])
        """
        return self._send(_endpoints.list_messages(execution_id, limit, offset))

    def iter_messages(
        self, execution_id: str, page_size: int = PAGE_ITEMS
    ) -> Iterator[JSON]:
        """Walk over all messages of an execution.

        Args:
            execution_id: The execution.
            page_size: Messages in one answer, 1 to 500.

        Returns:
            An iterator of messages.

        Raises:
            NotFoundError: There is no such execution.

        Example:
            >>> execution = client.execute_and_wait("greeting", {"name": "Ada"})
            >>> for message in client.iter_messages(execution["execution_id"]):
            ...     direction = message["direction"]
        """
        return self._walk(_message_pages(execution_id, page_size))


@twin_of(History)
class AsyncHistory(AsyncBase):
    """Executions in lists and in detail, awaited."""

    async def list_executions(
        self,
        flow_id: str | None = None,
        status: str | None = None,
        limit: int = PAGE_ITEMS,
        offset: int = 0,
    ) -> list[JSON]:
        call = _endpoints.list_executions(flow_id, status, limit, offset)
        return await self._send(call)

    def iter_executions(
        self,
        flow_id: str | None = None,
        status: str | None = None,
        page_size: int = PAGE_ITEMS,
    ) -> AsyncIterator[JSON]:
        return self._walk(_execution_pages(flow_id, status, page_size))

    async def get_execution_results(self, execution_id: str) -> JSON:
        return await self._send(_endpoints.get_execution_results(execution_id))

    async def list_messages(
        self, execution_id: str, limit: int = PAGE_ITEMS, offset: int = 0
    ) -> list[JSON]:
        return await self._send(_endpoints.list_messages(execution_id, limit, offset))

    def iter_messages(
        self, execution_id: str, page_size: int = PAGE_ITEMS
    ) -> AsyncIterator[JSON]:
        return self._walk(_message_pages(execution_id, page_size))


def _execution_pages(flow_id: str | None, status: str | None, page_size: int) -> Pages:
    return Pages(
        lambda limit, offset: _endpoints.list_executions(
            flow_id, status, limit, offset
        ),
        "execution_id",
        page_size,
    )


def _message_pages(execution_id: str, page_size: int) -> Pages:
    return Pages(
        lambda limit, offset: _endpoints.list_messages(execution_id, limit, offset),
        "id",
        page_size,
    )
