"""A store in memory with two devices of one person, and a house that opens when it is asked for."""

from collections.abc import Iterator

import pytest

from insula_vault import Vault
from tests.vault.devices import device
from tests.vault.in_process import InProcess, in_process
from tests.vault.store import Store


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with in_process(tmp_path_factory.mktemp("house") / "data") as transport:
        yield transport


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def phone(store) -> Vault:
    return device(store)


@pytest.fixture
def laptop(store) -> Vault:
    return device(store)
