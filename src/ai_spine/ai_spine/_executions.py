"""Executions: flows at work."""

from __future__ import annotations

from typing import Any, AsyncIterator, Iterator, Mapping

from ai_spine import _endpoints
from ai_spine._base import INTERVAL_S, WAIT_S, AsyncBase, SyncBase
from ai_spine._call import JSON
from ai_spine._following import Following
from ai_spine._twins import twin_of


class Executions(SyncBase):
    """Flow execution."""

    def execute_flow(
        self,
        flow_id: str,
        input_data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        timeout: float | None = None,
        version: str | None = None,
        idempotency_key: str | None = None,
    ) -> JSON:
        """Start a flow. However often this is sent again, it is started once.

        Args:
            flow_id: The flow.
            input_data: What it works on; everything in it must be JSON.
            metadata: What you want to find with the execution.
            priority: 0 to 10; higher ones start first.
            timeout: Seconds that the execution may take on the server.
            version: A version of the flow; the latest when left out.
            idempotency_key: Give the same one to start an execution once even when
                this program ends in between; a new one when left out.

        Returns:
            ``execution_id``, ``status`` ("pending") and ``created_at``, among others.

        Raises:
            ValidationError: ``flow_id`` or ``input_data`` is wrong.
            NotFoundError: There is no such flow.
            AuthenticationError: The key is missing or wrong.
            InsufficientCreditsError: No credits are left.
            RateLimitError: Too many requests, also after the retries.
            ConflictError: ``idempotency_key`` was used for something else.

        Example:
            >>> started = client.execute_flow("greeting", {"name": "Ada"})
            >>> started["status"]
            'pending'
        """
        return self._send(
            _endpoints.execute_flow(
                flow_id,
                input_data,
                metadata,
                priority=priority,
                timeout=timeout,
                version=version,
                idempotency_key=idempotency_key,
            )
        )

    def get_execution(self, execution_id: str) -> JSON:
        """Read an execution.

        Args:
            execution_id: Its id.

        Returns:
            ``status``, ``output_data``, ``error_message``, ``node_results``, ...

        Raises:
            NotFoundError: There is no such execution.

        Example:
            >>> started = client.execute_flow("greeting", {"name": "Ada"})
            >>> execution = client.get_execution(started["execution_id"])
            >>> execution["input_data"]
            {'name': 'Ada'}
        """
        return self._send(_endpoints.get_execution(execution_id))

    def wait_for_execution(
        self,
        execution_id: str,
        timeout: float = WAIT_S,
        interval: float = INTERVAL_S,
    ) -> JSON:
        """Wait until an execution has ended: completed, failed or cancelled.

        Args:
            execution_id: Its id.
            timeout: Seconds to wait at most; every request in between ends by then.
            interval: Seconds between two looks.

        Returns:
            The execution. Look at its ``status``: a failure is no error here.

        Raises:
            TimeoutError: It has not ended; it goes on.
            NotFoundError: There is no such execution.

        Example:
            >>> started = client.execute_flow("greeting", {"name": "Ada"})
            >>> execution = client.wait_for_execution(started["execution_id"])
            >>> execution["status"], execution["output_data"]
            ('completed', {'end': {'name': 'Ada'}})
        """
        return self._take(self._planner.wait(execution_id, timeout, interval))

    def execute_and_wait(
        self,
        flow_id: str,
        input_data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        timeout: float = WAIT_S,
        interval: float = INTERVAL_S,
        *,
        idempotency_key: str | None = None,
    ) -> JSON:
        """Start a flow and wait until it has completed.

        Args:
            flow_id: The flow.
            input_data: What it works on.
            metadata: What you want to find with the execution.
            timeout: Seconds to wait at most.
            interval: Seconds between two looks.
            idempotency_key: As in ``execute_flow``.

        Returns:
            The execution, completed.

        Raises:
            ExecutionError: It failed or was cancelled; ``details`` is the execution.
            TimeoutError: It has not ended; it goes on.

        Example:
            >>> execution = client.execute_and_wait("greeting", {"name": "Ada"})
            >>> execution["output_data"]
            {'end': {'name': 'Ada'}}
        """
        call = _endpoints.execute_flow(
            flow_id, input_data, metadata, idempotency_key=idempotency_key
        )
        return self._take(self._planner.run(call, timeout, interval))

    def cancel_execution(self, execution_id: str) -> JSON:
        """Stop an execution. Doing it again changes nothing.

        Args:
            execution_id: Its id.

        Returns:
            The execution, cancelled.

        Raises:
            NotFoundError: There is no such execution.
            ConflictError: It has ended.

        Example:
            >>> execution = client.execute_and_wait("greeting", {"name": "Ada"})
            >>> client.cancel_execution(execution["execution_id"])
            Traceback (most recent call last):
            ai_spine.exceptions.ConflictError: ...
        """
        return self._send(_endpoints.cancel_execution(execution_id))

    def stream_execution(
        self,
        execution_id: str,
        timeout: float | None = None,
        *,
        last_event_id: str | None = None,
    ) -> Iterator[JSON]:
        """Follow an execution, from its first event to its end.

        A connection that breaks is opened again behind the last event.

        Args:
            execution_id: Its id.
            timeout: Seconds until it must have ended; looked at with each sign of
                life, which comes every 15 seconds at least. No limit when left out.
            last_event_id: Go on behind this event.

        Returns:
            An iterator of ``{"event", "id", "data"}``: "status", "node", and last
            "result" with the execution.

        Raises:
            NotFoundError: There is no such execution.
            TimeoutError: It has not ended; it goes on.
            NetworkError: The connection broke too often.

        Example:
            >>> started = client.execute_flow("greeting", {"name": "Ada"})
            >>> for event in client.stream_execution(started["execution_id"]):
            ...     last = event
            >>> last["event"], last["data"]["status"]
            ('result', 'completed')
        """
        return self._follow(
            Following(self._planner, execution_id, timeout, last_event_id)
        )


@twin_of(Executions)
class AsyncExecutions(AsyncBase):
    """Flow execution, awaited."""

    async def execute_flow(
        self,
        flow_id: str,
        input_data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        timeout: float | None = None,
        version: str | None = None,
        idempotency_key: str | None = None,
    ) -> JSON:
        return await self._send(
            _endpoints.execute_flow(
                flow_id,
                input_data,
                metadata,
                priority=priority,
                timeout=timeout,
                version=version,
                idempotency_key=idempotency_key,
            )
        )

    async def get_execution(self, execution_id: str) -> JSON:
        return await self._send(_endpoints.get_execution(execution_id))

    async def wait_for_execution(
        self,
        execution_id: str,
        timeout: float = WAIT_S,
        interval: float = INTERVAL_S,
    ) -> JSON:
        return await self._take(self._planner.wait(execution_id, timeout, interval))

    async def execute_and_wait(
        self,
        flow_id: str,
        input_data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        timeout: float = WAIT_S,
        interval: float = INTERVAL_S,
        *,
        idempotency_key: str | None = None,
    ) -> JSON:
        call = _endpoints.execute_flow(
            flow_id, input_data, metadata, idempotency_key=idempotency_key
        )
        return await self._take(self._planner.run(call, timeout, interval))

    async def cancel_execution(self, execution_id: str) -> JSON:
        return await self._send(_endpoints.cancel_execution(execution_id))

    def stream_execution(
        self,
        execution_id: str,
        timeout: float | None = None,
        *,
        last_event_id: str | None = None,
    ) -> AsyncIterator[JSON]:
        return self._follow(
            Following(self._planner, execution_id, timeout, last_event_id)
        )
