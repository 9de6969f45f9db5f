"""The server itself, and whom the key belongs to."""

from __future__ import annotations

from ai_spine import _endpoints
from ai_spine._base import AsyncBase, SyncBase
from ai_spine._call import JSON
from ai_spine._twins import twin_of


class System(SyncBase):
    """System operations."""

    def health_check(self) -> JSON:
        """Ask whether the server is well. Needs no key.

        Returns:
            ``status`` ("healthy"), ``version``, ``timestamp``, ``uptime`` (seconds).

        Raises:
            NetworkError: The server was not reached.

        Example:
            >>> health = client.health_check()
            >>> health["status"]
            'healthy'
        """
        return self._send(_endpoints.health_check())

    def get_health_details(self) -> JSON:
        """Ask what the server depends on, and whether that is well.

        Returns:
            ``status``, ``timestamp``, ``database``, ``mode``, ``redis``.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> health = client.get_health_details()
            >>> health["database"]
            'connected'
        """
        return self._send(_endpoints.get_health_details())

    def get_metrics(self) -> JSON:
        """Count your executions, flows and agents.

        Returns:
            ``total_executions``, ``successful_executions``, ``failed_executions``,
            ``running_executions``, ``average_execution_time`` (seconds), ...

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> metrics = client.get_metrics()
            >>> metrics["running_executions"] >= 0
            True
        """
        return self._send(_endpoints.get_metrics())

    def get_status(self) -> JSON:
        """Ask for the state of the server's parts.

        Returns:
            ``status``, ``components``, ``agents`` and ``flows`` with their totals.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> status = client.get_status()
            >>> status["status"]
            'operational'
        """
        return self._send(_endpoints.get_status())

    def get_current_user(self) -> JSON:
        """Ask whom the key belongs to.

        Returns:
            ``id``, ``email``, ``name``, ``organization``, ``plan``, ``credits``,
            ``rate_limit``, ``created_at``.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> user = client.get_current_user()
            >>> user["name"]
            'owner'
        """
        return self._send(_endpoints.get_current_user())

    def check_credits(self) -> int:
        """Ask how many credits are left, before something dear.

        Returns:
            The number of credits.

        Raises:
            AuthenticationError: The key is missing or wrong.

        Example:
            >>> client.check_credits() >= 0
            True
        """
        return self._send(_endpoints.check_credits())


@twin_of(System)
class AsyncSystem(AsyncBase):
    """System operations, awaited."""

    async def health_check(self) -> JSON:
        return await self._send(_endpoints.health_check())

    async def get_health_details(self) -> JSON:
        return await self._send(_endpoints.get_health_details())

    async def get_metrics(self) -> JSON:
        return await self._send(_endpoints.get_metrics())

    async def get_status(self) -> JSON:
        return await self._send(_endpoints.get_status())

    async def get_current_user(self) -> JSON:
        return await self._send(_endpoints.get_current_user())

    async def check_credits(self) -> int:
        return await self._send(_endpoints.check_credits())
