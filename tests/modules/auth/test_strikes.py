"""How often somebody may guess."""

import pytest

from app.kernel.errors import TooMany
from app.modules.auth.api import InvalidCredentials
from app.modules.auth.domain import Allowance, Bucket
from app.modules.auth.service.strikes import MAX_BUCKETS, StrikeBook, TooManyAttempts

ONE = Allowance(free=1, recovery_s=60.0, max_wait_s=60.0)
ANNA = (Bucket("anna", ONE),)


class TestAttempt:
    @pytest.fixture
    def book(self) -> StrikeBook:
        self.now_s = 100.0
        return StrikeBook(monotonic=lambda: self.now_s)

    def fail(self, book, buckets=ANNA, error=InvalidCredentials) -> None:
        with pytest.raises(error), book.attempt(buckets):
            raise error

    def test_a_failure_makes_the_next_one_wait(self, book):
        self.fail(book)

        with pytest.raises(TooManyAttempts) as refused, book.attempt(ANNA):
            pass
        assert refused.value.extra["retry_after_s"] == 1.0
        self.now_s += 1.0
        with book.attempt(ANNA):
            pass

    def test_being_refused_is_no_failure(self, book):
        self.fail(book)
        for _ in range(10):
            with pytest.raises(TooManyAttempts), book.attempt(ANNA):
                pass
        self.now_s += 1.0

        with book.attempt(ANNA):
            pass

    def test_success_leaves_no_trace(self, book):
        for _ in range(10):
            with book.attempt(ANNA):
                pass

    def test_a_busy_house_is_nobodys_failure(self, book):
        self.fail(book, error=TooMany)

        with book.attempt(ANNA):
            pass

    def test_attempts_under_way_count(self, book):
        with book.attempt(ANNA), pytest.raises(TooManyAttempts), book.attempt(ANNA):
            pass

    def test_buckets_are_counted_apart(self, book):
        self.fail(book)

        with book.attempt((Bucket("bert", ONE),)):
            pass

    def test_one_full_bucket_is_enough(self, book):
        self.fail(book)

        with pytest.raises(TooManyAttempts), book.attempt((Bucket("bert", ONE), *ANNA)):
            pass

    def test_nothing_to_count_by_is_no_limit(self, book):
        for _ in range(10):
            self.fail(book, buckets=())

    def test_is_bounded_and_forgets_the_stalest(self, book):
        self.fail(book)
        for number in range(MAX_BUCKETS):
            self.fail(book, (Bucket(f"{number}", ONE),))

        with book.attempt(ANNA):
            pass
        with pytest.raises(TooManyAttempts), book.attempt((Bucket("1", ONE),)):
            pass
