"""Price against latency."""

from app.modules.routing.domain.balance import Terms, Weights, balance
from app.modules.routing.domain.prices import FREE, Price

GRATIS = Price(FREE, "USD", 0, 0)
DEAR = Price("v", "USD", 3_000_000, 15_000_000)


class TestBalance:
    FREE_AND_SLOW = Terms(GRATIS, 900.0)
    DEAR_AND_QUICK = Terms(DEAR, 100.0)

    def test_lets_latency_decide_on_a_short_request(self):
        free, dear = balance([self.FREE_AND_SLOW, self.DEAR_AND_QUICK], 100, Weights())

        assert dear < free

    def test_lets_price_decide_from_the_threshold_on(self):
        free, dear = balance([self.FREE_AND_SLOW, self.DEAR_AND_QUICK], 1000, Weights())

        assert free < dear

    def test_counts_price_by_its_weight(self):
        weights = Weights(cost=10.0)

        free, dear = balance([self.FREE_AND_SLOW, self.DEAR_AND_QUICK], 100, weights)

        assert free < dear

    def test_counts_latency_by_its_weight(self):
        weights = Weights(latency=0.0)

        assert balance([self.FREE_AND_SLOW], 1000, weights) == (0.0,)

    def test_takes_an_unknown_price_for_the_highest(self):
        unknown, dear = balance([Terms(None, 1.0), Terms(DEAR, 1.0)], 1000, Weights())

        assert unknown == dear

    def test_takes_an_unknown_latency_for_none(self):
        unknown, known = balance([Terms(DEAR), Terms(DEAR, 1.0)], 1000, Weights())

        assert unknown < known

    def test_of_nothing_is_nothing(self):
        assert balance([], 1000, Weights()) == ()
