"""Smart routing: a caller names no model, or a strategy, and the request decides."""

from collections.abc import Iterable

import msgspec

from app.modules.auth.api import Principal
from app.modules.routing.domain.categories import (
    CATEGORIES,
    Category,
    ModelCard,
    Strategy,
    classify,
    pick,
    read_max_cost,
    read_strategy,
    route_headers,
)
from app.modules.routing.ports import Route
from app.modules.routing.service.orders import Order

AUTO = "auto"
DEFAULT_STRATEGY: Strategy = "cost-optimized"


class Pick(msgspec.Struct, frozen=True):
    """A model that was picked for the caller, and what the answer's headers say of it."""

    name: str
    category: Category
    strategy: Strategy
    headers: tuple[tuple[bytes, bytes], ...]


def wants_pick(order: Order) -> bool:
    """Whether the model is ours to pick: none is named, or a strategy is."""
    return bool(order.hints.strategy) or order.envelope.model in {"", AUTO}


def picked(order: Order, routes: Iterable[Route]) -> Pick | None:
    """Pick among the routes that the caller may use; ``None`` when the request names its model.

    ``NoSuitableModel`` when the strategy leaves none, ``BadStrategy`` for headers that say nothing.
    """
    strategy = read_strategy(order.hints.strategy)
    named = [name for name in order.envelope.names if name != AUTO]
    if strategy is None and named:
        return None
    cards = [_card(route) for route in routes if route.kind == "chat"]
    if strategy == "pass-through":
        cards = [card for name in named for card in cards if card.name == name]
    category = classify(order.body)
    chosen = strategy or DEFAULT_STRATEGY
    card, reason = pick(category, chosen, cards, read_max_cost(order.hints.max_cost))
    told = route_headers(
        model=card.name, provider=card.upstream, reason=reason, price=card.price, category=category
    )
    headers = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in told)
    return Pick(card.name, category, chosen, headers)


def may_use(principal: Principal, route: Route) -> bool:
    """Whether the caller's key allows the model, and the model is not somebody else's."""
    is_mine = route.user_id is None or route.user_id == principal.user_id
    return is_mine and principal.may_use(route.name)


def _card(route: Route) -> ModelCard:
    target = route.targets[0]
    return ModelCard(
        name=route.name,
        upstream=target.source.name,
        price=target.price,
        card=target.card,
        is_local=target.source.is_free,
        tasks=CATEGORIES & target.card.capabilities,
    )
