"""Conversations on SQLite, on a clock that stands still."""

import pytest

from app.kernel.db import Database
from app.kernel.keys import AesGcmSeal, Keyring
from app.modules.routing.service.conversations import Conversations
from tests.fakes.clock import FakeClock

SECRET = "a master secret of the tests, 0123456789"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def conversations(sqlite: Database, clock: FakeClock) -> Conversations:
    return Conversations(sqlite, AesGcmSeal(Keyring([SECRET]), "routing-sealing"), clock)
