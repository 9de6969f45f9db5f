"""Which targets a call may go to, the best first: the facts for ``domain/choice.py``."""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from app.kernel.errors import Invalid
from app.modules.routing.domain.balance import Weights
from app.modules.routing.domain.choice import (
    Candidate,
    Decision,
    Wish,
    decide,
)
from app.modules.routing.domain.names import ModelNotFound
from app.modules.routing.domain.preferences import NO_PREFERENCES, Preferences, read_preferences
from app.modules.routing.domain.streams import BYTES_A_TOKEN
from app.modules.routing.ports import Route, Target
from app.modules.routing.service.gates import Gates
from app.modules.routing.service.orders import Order
from app.modules.routing.service.registry import Registry
from app.modules.routing.service.strategies import Pick, may_use, picked, wants_pick

IMAGE_MARKS = (b'"image_url"', b'"input_image"')


class NoTarget(ModelNotFound):
    """The model exists, and what the caller asks of its provider leaves none."""

    title = "No provider fits"


class NoKeyWanted(Invalid):
    """A caller's own key is for a provider; this server is none."""

    title = "Own key not usable"


class Choice(msgspec.Struct, frozen=True):
    """What was decided, with everything that was looked at."""

    route: Route
    targets: tuple[Target, ...]
    candidates: tuple[Candidate, ...] = ()
    decision: Decision | None = None
    pick: Pick | None = None


class Chooser:
    """Decides for one order. ``draw`` gives uniform numbers in [0, 1)."""

    def __init__(
        self,
        registry: Registry,
        gates: Gates,
        weights: Weights = Weights(),  # noqa: B008 - it is frozen
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._registry = registry
        self._weights = weights
        self._gates = gates
        self._draw = draw

    async def choose(self, order: Order) -> Choice:
        """Find the targets of an order; ``ModelNotFound`` or ``NoTarget`` when there are none."""
        if wants_pick(order):
            return await self.explain(order)
        if order.envelope.has_routing:
            return self._weigh(order, await self._routes(order))
        route = await self._route(order.envelope.model, order)
        if len(route.targets) > 1:
            return self._weigh(order, [route])
        self._check_key(order, route.targets)
        return Choice(route, route.targets)

    async def explain(self, order: Order) -> Choice:
        """Decide as for a call, and tell the reasons, also where there is nothing to choose."""
        pick = None
        if wants_pick(order):
            pick = picked(order, self._open_to(order, await self._registry.ready_list()))
        if pick is None:
            return self._weigh(order, await self._routes(order))
        choice = self._weigh(order, [await self._route(pick.name, order)])
        return msgspec.structs.replace(choice, pick=pick)

    def _weigh(self, order: Order, routes: Sequence[Route]) -> Choice:
        """Look at every target and decide."""
        preferences = _preferences(order)
        chosen: list[Target] = []
        candidates: list[Candidate] = []
        decisions = []
        for route in routes:
            found = self._candidates(order, route, offset=len(candidates))
            decision = decide(found, route.policy, preferences, self._wish(order))
            chosen += [route.targets[index - len(candidates)] for index in decision.order]
            candidates += found
            decisions.append(decision)
        merged = Decision(
            tuple(index for decision in decisions for index in decision.order),
            tuple(reason for decision in decisions for reason in decision.reasons),
        )
        if not chosen:
            why = "; ".join(sorted({reason.text for reason in merged.reasons}))
            raise NoTarget(f"No provider of {routes[0].name!r} is left: {why}.", param="provider")
        targets = tuple(chosen)
        if order.hints.own_key:
            # The key is for one provider, and must not reach another.
            first = targets[0].source.name
            targets = tuple(target for target in targets if target.source.name == first)
        self._check_key(order, targets)
        return Choice(routes[0], targets, tuple(candidates), merged)

    def cache_ttl_s(self, order: Order) -> int:
        """How long the answer may be kept, 0 for not at all.

        An own key's answer never is, nor one with an id under which it can be referred to.
        """
        hints = order.hints
        if hints.own_key or order.surface == "responses":
            return 0
        if hints.cache_ttl_s is not None:
            return hints.cache_ttl_s
        return self._registry.cache_ttl_s(order.principal.credential_id)

    async def _routes(self, order: Order) -> list[Route]:
        """The routes of every model named, in order; those that are unknown are left out."""
        names = order.envelope.names
        if not names:
            raise Invalid(
                "The body needs a string `model`; GET /v1/models lists the names.", param="model"
            )
        if len(names) == 1:
            return [await self._route(names[0], order)]
        found = [
            route
            for name in names
            if (route := self._registry.find(name)) and may_use(order.principal, route)
        ]
        return found or [await self._route(names[0], order)]

    def _open_to(self, order: Order, routes: Iterable[Route]) -> Iterator[Route]:
        return (route for route in routes if may_use(order.principal, route))

    async def _route(self, name: str, order: Order) -> Route:
        route = self._registry.find(name)
        if route is None:
            locate = self._registry.locate
            if order.hints.own_key:
                locate = self._registry.locate_with_own_key
            route = await locate(name)
        if not may_use(order.principal, route):
            raise self._registry.unknown(name)
        return route

    def _candidates(self, order: Order, route: Route, *, offset: int) -> list[Candidate]:
        return [
            self._candidate(order, target, offset + index)
            for index, target in enumerate(route.targets)
        ]

    def _candidate(self, order: Order, target: Target, index: int) -> Candidate:
        gate, pace = self._gates.gate(target.source), self._gates.pace(target)
        return Candidate(
            index=index,
            upstream=target.source.name,
            model=target.model,
            weight=target.weight,
            price=target.price,
            in_flight=gate.in_flight,
            limit=gate.limit,
            queued=gate.queued,
            ttft_ewma_ms=pace.ewma_ms(self._gates.now(), is_streamed=order.is_streamed),
            is_open=self._gates.is_open(target),
            is_local=target.source.is_free,
            quality=target.card.quality,
            capabilities=target.card.capabilities,
            context_tokens=target.card.context_tokens,
        )

    def _wish(self, order: Order) -> Wish:
        return Wish(
            affinity_hash=int(affinity(order), 16),
            tokens_estimate=len(order.body) // BYTES_A_TOKEN,
            draws=(self._draw(), self._draw()),
            needs=_needs(order),
            chars=len(order.body),
            weights=self._weights,
        )

    def _check_key(self, order: Order, targets: Sequence[Target]) -> None:
        if not order.hints.own_key:
            return
        for target in targets:
            if not target.source.takes_keys:
                text = f"{target.source.name} takes no key of yours; leave X-Provider-Key out."
                raise NoKeyWanted(text, param="X-Provider-Key")


def affinity(order: Order) -> str:
    """A stable mark of the conversation: 16 hexadecimal digits, of which nothing can be read back.

    Calls of a caller who marks no conversation belong together.
    """
    mark = order.hints.session or order.envelope.conversation
    text = order.principal.credential_id.bytes + mark
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _needs(order: Order) -> frozenset[str]:
    """What a model must have for this request, as far as a look at it tells."""
    needs = {"tools"} if order.envelope.has_tools else set()
    if any(mark in order.body for mark in IMAGE_MARKS):
        needs.add("vision")
    return frozenset(needs)


def _preferences(order: Order) -> Preferences:
    raw = order.envelope.provider
    return NO_PREFERENCES if bytes(raw) in {b"", b"null"} else read_preferences(raw)
