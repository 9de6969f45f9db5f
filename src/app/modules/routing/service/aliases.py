"""Names that the owner gives: one name, several places, one policy."""

from collections.abc import Sequence
from uuid import UUID

from app.kernel.errors import Forbidden, Invalid
from app.modules.auth.api import Principal
from app.modules.routing.domain.choice import Policy
from app.modules.routing.models import ModelRow
from app.modules.routing.ports import Route
from app.modules.routing.service.registry import Registry

PLACES_LIMIT = 32


class OwnerOnly(Forbidden):
    """What every caller's models depend on is the owner's."""

    title = "Owner only"


class NoSuchUpstream(Invalid):
    """No upstream of this name is configured."""

    title = "Unknown upstream"


class Aliases:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list(self, principal: Principal) -> list[Route]:
        """Every name that the owner has given or the upstreams have."""
        _owner(principal)
        return await self._registry.ready_list()

    async def put(
        self, principal: Principal, name: str, policy: Policy, rows: Sequence[ModelRow]
    ) -> Route:
        """Make ``rows`` what ``name`` leads to."""
        _owner(principal)
        if not 0 < len(rows) <= PLACES_LIMIT:
            raise Invalid(f"A name leads to 1 to {PLACES_LIMIT} places.", param="targets")
        for row in rows:
            if row.upstream not in self._registry.upstream_names:
                known = ", ".join(sorted(self._registry.upstream_names))
                raise NoSuchUpstream(f"There is no upstream {row.upstream!r}; there are {known}.")
        await self._registry.put(name, policy, rows)
        return await self._registry.locate(name)

    async def forget(self, principal: Principal, name: str) -> None:
        _owner(principal)
        await self._registry.forget(name)

    async def keep_answers(self, credential_id: UUID, ttl_s: int) -> None:
        """Answer the equal requests of a key from the cache for ``ttl_s``; 0 ends that."""
        await self._registry.keep_answers(credential_id, ttl_s)


def _owner(principal: Principal) -> None:
    if principal.role != "owner":
        raise OwnerOnly("Only the owner of this house decides where names lead.")
