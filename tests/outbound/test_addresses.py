"""Where a URL that a user chose may lead, and where the client behind it connects."""

import socket
from ipaddress import ip_address

import pytest

from app.modules.routing.adapters.guarded import GuardedClient
from app.modules.routing.domain.faults import UpstreamUnreachable
from app.modules.routing.ports import Deadlines, HttpRequest
from app.outbound.addresses import (
    BadEndpoint,
    EndpointForbidden,
    checked_url,
    is_forbidden,
)
from tests.scripted_upstream import scripted_upstream

PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
PRIVATE = [
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.1.2.3",
    "172.16.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "::1",
    "fc00::1",
    "fec0::1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::1",
    "::10.0.0.1",
]
NOBODYS = [
    "0.0.0.0",
    "0.1.2.3",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.1.1",
    "169.254.169.254",
    "192.0.0.192",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd20:ce::254",
    "ff02::1",
    "::169.254.169.254",
    "::ffff:169.254.169.254",
    "::ffff:0:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
]


class TestIsForbidden:
    @pytest.mark.parametrize("text", PUBLIC)
    def test_what_is_public_is_open_to_everybody(self, text):
        assert not is_forbidden(ip_address(text))

    @pytest.mark.parametrize("text", PRIVATE)
    def test_what_is_private_is_open_to_the_owner_only(self, text):
        address = ip_address(text)

        assert is_forbidden(address)
        assert not is_forbidden(address, may_be_private=True)

    @pytest.mark.parametrize("text", NOBODYS)
    def test_link_local_metadata_and_multicast_are_open_to_nobody(self, text):
        assert is_forbidden(ip_address(text), may_be_private=True)


class TestCheckedUrl:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("https://gpu.example.org", "https://gpu.example.org"),
            ("http://GPU.example.org:5000/infer/", "http://gpu.example.org:5000/infer"),
            ("http://8.8.8.8:80", "http://8.8.8.8:80"),
            ("http://[2606:4700::1111]:1/v1", "http://[2606:4700::1111]:1/v1"),
            ("http://gpu_1.lan.example./v1", "http://gpu_1.lan.example./v1"),
        ],
    )
    def test_has_a_plain_form(self, given, expected):
        assert checked_url(given) == expected

    @pytest.mark.parametrize(
        "given",
        [
            "http://127.0.0.1:5000",
            "http://localhost:5000",
            "http://a.localhost.",
            "http://[::1]",
            "http://[::ffff:127.0.0.1]",
            "http://192.168.0.7/infer",
        ],
    )
    def test_lets_the_owner_only_into_this_network(self, given):
        with pytest.raises(EndpointForbidden, match="only this installation's owner"):
            checked_url(given)

        assert checked_url(given, may_be_private=True) == given

    @pytest.mark.parametrize(
        "given",
        [
            "http://169.254.169.254/latest/meta-data",
            "http://[fe80::1]",
            "http://[::ffff:a9fe:a9fe]",
            "http://0.0.0.0:8000",
        ],
    )
    def test_lets_nobody_to_the_metadata(self, given):
        with pytest.raises(EndpointForbidden):
            checked_url(given, may_be_private=True)

    @pytest.mark.parametrize(
        "given",
        [
            "http://2130706433",
            "http://0x7f000001",
            "http://0x7f.1",
            "http://017700000001",
            "http://0177.0.0.1",
            "http://127.1",
            "http://127.0.0.1.",
            "http://1.2.3.256",
            "http://1.2.3.4.5",
            "http://evil.0x",
            "http://[1::2::3]",
        ],
    )
    def test_takes_an_address_in_its_usual_form_only(self, given):
        with pytest.raises(BadEndpoint):
            checked_url(given, may_be_private=True)

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "gpu:5000",
            "ftp://gpu.example.org",
            "file:///etc/passwd",
            "http://",
            "http:///infer",
            "http://user:secret@gpu.example.org",
            "http://@gpu.example.org",
            "http://gpu.example.org/?a=b",
            "http://gpu.example.org/?",
            "http://gpu.example.org/#a",
            "http://gpu.example.org:0",
            "http://gpu.example.org:99999",
            "http://gpu.example.org:port",
            "http://gpu.exam ple.org",
            "http://gpu.example.org\\@127.0.0.1",
            "http://gpu.example.org/\r\nx: y",
            "http://gpu\t.example.org",
            "http://127%2e0.0.1",
            "http://１２７.0.0.1",  # noqa: RUF001 - digits that IDNA turns into plain ones
            "http://-gpu",
            "http://a/" + "a" * 2048,
        ],
    )
    def test_refuses_what_is_no_plain_url(self, given):
        with pytest.raises(BadEndpoint):
            checked_url(given, may_be_private=True)


@pytest.fixture
async def server():
    async with scripted_upstream() as played:
        yield played


@pytest.fixture
def names(monkeypatch) -> dict[str, str]:
    """Addresses of names, in place of the resolver's."""
    found: dict[str, str] = {}
    resolve = socket.getaddrinfo

    def look_up(host, *more, **also):
        return resolve(found.get(host, host), *more, **also)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return found


async def fetched(url: str, *, may_be_private: bool) -> int:
    client = GuardedClient(
        "worker/x",
        url,
        answer_limit_bytes=1_000_000,
        max_connections=4,
        may_be_private=may_be_private,
    )
    deadlines = Deadlines(connect_s=2.0, first_byte_s=2.0, idle_s=2.0)
    try:
        return (await client.fetch(HttpRequest("models", b"", (), deadlines))).status
    finally:
        await client.close()


class TestGuardedClient:
    async def test_connects_where_the_owner_says(self, server):
        assert await fetched(server.base_url, may_be_private=True) == 200

    async def test_follows_a_name_of_the_owners_into_this_network(self, server, names):
        names["agent.example.org"] = "127.0.0.1"
        url = server.base_url.replace("127.0.0.1", "agent.example.org")

        assert await fetched(url, may_be_private=True) == 200

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254"])
    async def test_does_not_follow_anothers_name_into_this_network(
        self, server, names, address, caplog
    ):
        names["rebound.example.org"] = address
        url = server.base_url.replace("127.0.0.1", "rebound.example.org")

        with pytest.raises(UpstreamUnreachable):
            await fetched(url, may_be_private=False)

        assert "outbound.address-refused" in caplog.messages

    @pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "0.0.0.0"])
    async def test_follows_no_name_to_the_metadata(self, server, names, address, caplog):
        names["metadata.example.org"] = address
        url = server.base_url.replace("127.0.0.1", "metadata.example.org")

        with pytest.raises(UpstreamUnreachable):
            await fetched(url, may_be_private=True)

        assert "outbound.address-refused" in caplog.messages

    async def test_refuses_an_address_that_is_spelled_out_too(self, server):
        with pytest.raises(UpstreamUnreachable):
            await fetched(server.base_url, may_be_private=False)

    async def test_says_nothing_of_the_address_it_was_refused(self, server, names):
        names["rebound.example.org"] = "10.0.0.1"

        with pytest.raises(UpstreamUnreachable) as caught:
            await fetched("http://rebound.example.org", may_be_private=False)

        assert "10.0.0.1" not in str(caught.value)
