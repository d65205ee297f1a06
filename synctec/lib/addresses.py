"""Which IP addresses are the public internet: the table behind the SSRF guard of `synctec.lib.http`.

A table of our own, because `ipaddress.is_global` of Python 3.11 calls multicast, 6to4, NAT64 of loopback,
site-local and others global, and changes between patch releases. Source: the IANA special-purpose address
registries for IPv4 and IPv6 (2026), plus what clouds hide behind public-looking numbers.
"""

import ipaddress
from typing import Final

_NOT_PUBLIC_V4: Final = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches loopback on Linux
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; one cloud's metadata service lives here
        "127.0.0.0/8",  # loopback, all of it
        "168.63.129.16/32",  # Azure's host agent, reachable from every guest
        "169.254.0.0/16",  # link-local: 169.254.169.254 is the metadata service nearly everywhere
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; another cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Of IPv6 only the block handed out as global unicast counts, so every other form is out without being named:
# loopback, unspecified, IPv4-mapped, NAT64, unique local, link-local, site-local, multicast, SRv6.
_GLOBAL_UNICAST_V6: Final = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6: Final = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo carries an IPv4 address inside, ORCHID routes nowhere
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address inside
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the 6bone, given back
        "3fff::/20",  # documentation
    )
)


def is_public_address(text: str) -> bool:
    """Say whether `text` is one IP address of the public internet. Anything unreadable is not."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in block for block in _NOT_PUBLIC_V4)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST_V6:
        return False
    return not any(address in block for block in _NOT_PUBLIC_V6)
