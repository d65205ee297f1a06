import pytest

from synctec.lib.addresses import is_public_address

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "23.227.38.74",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
]

NOT_PUBLIC = [
    # this network
    "0.0.0.0",  # noqa: S104
    "0.0.0.1",
    "0.255.255.255",
    # private
    "10.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    # shared address space, with a metadata service
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    # loopback, all of it
    "127.0.0.1",
    "127.0.1.1",
    "127.255.255.254",
    # link-local: metadata services
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    # a cloud's host agent at a public-looking number
    "168.63.129.16",
    # protocol assignments, documentation, benchmarks, AS112, AMT, 6to4 relay
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "198.51.100.7",
    "203.0.113.9",
    "198.18.0.1",
    "198.19.255.255",
    "192.31.196.1",
    "192.175.48.1",
    "192.52.193.1",
    "192.88.99.1",
    # multicast, reserved, broadcast
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    # IPv6: unspecified, loopback, IPv4-compatible and -mapped in every spelling
    "::",
    "::1",
    "::127.0.0.1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "0:0:0:0:0:ffff:7f00:0001",
    # NAT64, well-known and local
    "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    # discard, dummy
    "100::1",
    "100:0:0:1::1",
    # 6to4, Teredo, ORCHID, benchmarks, protocol assignments
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:808:808::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    # documentation, old and new; the 6bone; AS112
    "2001:db8::1",
    "3fff::1",
    "3fff:fff:ffff::1",
    "3ffe::1",
    "2620:4f:8000::1",
    # segment routing, unique local with metadata services, link-local, site-local, multicast
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "fe80::a9fe:a9fe",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    # never handed out
    "1::1",
    "4000::1",
    "8000::1",
    "e000::1",
    # a public address that names an interface
    "2606:4700:4700::1111%eth0",
]

UNREADABLE = [
    "",
    " ",
    "localhost",
    "8.8.8.8 ",
    "8.8.8.8\n",
    "8.8.8",
    "8.8.8.8.8",
    "08.8.8.8",
    "0x8.8.8.8",
    "134744072",
    "8.8.8.8/32",
    "[2606:4700:4700::1111]",
    "2606:4700:4700:::1111",
    "８.８.８.８",
]


def test_the_table_is_long_enough() -> None:
    assert len(NOT_PUBLIC) >= 60
    assert len(set(NOT_PUBLIC)) == len(NOT_PUBLIC)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_special_addresses_are_not(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_is_no_plain_address_is_not(text: str) -> None:
    assert not is_public_address(text)
