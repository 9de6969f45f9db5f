"""What routing asks of billing: may this be spent, and this was spent."""

from collections.abc import Callable, Sequence

from app.modules.auth.api import Principal
from app.modules.billing.api import Claim, Meter, Remaining, Usage
from app.modules.routing.domain.prices import most_cost_nanos
from app.modules.routing.domain.streams import BYTES_A_TOKEN
from app.modules.routing.ports import Target
from app.modules.routing.service.calls import Call
from app.modules.routing.service.plans import Failure

Observer = Callable[[Usage], None]


class Ledger:
    """``output_tokens`` is reserved for an answer whose length the caller does not limit.

    ``describe`` says what callers are told of an exception. Observers are told of every row after
    it is safe.
    """

    def __init__(
        self, meter: Meter, describe: Callable[[Exception], Failure], *, output_tokens: int = 4096
    ) -> None:
        self._meter = meter
        self.describe = describe
        self._output_tokens = output_tokens
        self._observers: list[Observer] = []

    def tell(self, observer: Observer) -> None:
        """Have ``observer`` told of every usage row from now on."""
        self._observers.append(observer)

    async def admit(self, call: Call, targets: Sequence[Target]) -> None:
        """Reserve the most that a call can use; raises what billing says against it."""
        order = call.order
        told = len(order.body) // BYTES_A_TOKEN
        said = 0
        if order.surface != "embeddings":
            said = order.envelope.output_limit(self._output_tokens)
        cost_nanos = 0
        if not order.hints.own_key:
            cost_nanos = max(most_cost_nanos(told, said, target.price) for target in targets)
        claim = Claim(call.id, order.principal, told + said, cost_nanos)
        if not self._meter.reserve_now(claim):
            await self._meter.reserve(claim)

    def withdraw(self, call: Call) -> None:
        """Give back what a call reserved that leaves no row."""
        self._meter.release(call.id)

    def remaining(self, principal: Principal) -> Remaining | None:
        """What the caller's limits leave; ``None`` for who is not limited."""
        return self._meter.remaining(principal)

    def keep(self, usage: Usage) -> None:
        """Write the usage row, and turn what was reserved into what was used."""
        self._meter.settle(usage)
        for observer in self._observers:
            observer(usage)
