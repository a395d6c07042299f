"""Which addresses may be asked: of URLs by their form, of IP addresses by what they are.

A page reader that takes URLs from a language model, and links from strangers, must not become a way into the
network it runs in (loopback, private ranges, the metadata service of a cloud). Two checks make it so. The form of the
URL is checked here. What counts, though, is the IP address that is dialled: a name may resolve to anything, and to
something else a moment later. So :mod:`arpo_env.web.fetch` resolves once, asks :class:`AddressPolicy` about every
address, and dials what was checked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import quote, urlsplit

from arpo_env.errors import ConfigError
from arpo_env.web.base import Refusal

MAX_URL_CHARS = 2048
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: All that a URL may hold unescaped, and "%" (what is escaped already stays).
_SAFE = "/:?#[]@!$&'()*+,;=%~-._"
_HOST = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
#: A last label of this form makes a host a number in some notation, to browsers and to ``inet_aton`` alike.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")

#: The part of IPv6 that is given out to the public at all.
_IPV6_PUBLIC = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
#: Benchmarking, documentation, 6to4 relays …: what ``is_global`` says of these differs between Python releases.
_NOT_PUBLIC = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15")))

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart. ``host`` is ASCII, an IPv6 address stands without its brackets; ``path`` has the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """Host and, where it is not the scheme's own, port: the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def url(self) -> str:
        return f"{self.origin}{self.path}"


def parse_url(url: str) -> Target:
    """``url`` taken apart, without its fragment.

    Raises:
        Refusal: it is no plain HTTP(S) URL.
    """
    url = url.strip()
    if len(url) > MAX_URL_CHARS:
        raise Refusal(f"the URL has {len(url)} characters, at most {MAX_URL_CHARS} are read")
    if re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise Refusal("a URL holds no blanks, backslashes or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
        path, query = (quote(part, safe=_SAFE) for part in (parts.path or "/", parts.query))
    except ValueError as error:  # lone surrogates too, which cannot be escaped
        raise Refusal(f"not a URL ({error})") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise Refusal("not a URL that can be read; it must look like https://example.org/page")
    if "@" in parts.netloc:
        raise Refusal("a URL with a user name or password in it is not read")
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    return Target(parts.scheme, _host(parts.hostname), port, f"{path}?{query}" if query else path)


def _host(host: str) -> str:
    if ":" in host:
        try:
            address = IPv6Address(host)
        except ValueError:
            address = None
        if address is None or address.scope_id is not None:  # "fe80::1%eth0" names an interface of this machine
            raise Refusal(f"{host!r} is no IPv6 address of the web")
        return str(address)
    try:
        # The codec folds look-alikes (full-width digits), so what comes out is what is checked below.
        host = host.encode("idna").decode()
    except UnicodeError:
        raise Refusal(f"{host[:80]!r} is no host name") from None
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise Refusal(f"{host[:80]!r} is no host name")
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise Refusal(f"{host!r} is no host name; an IPv4 address is written as four decimal numbers") from None
    return host


def is_public(address: Address) -> bool:
    """Whether ``address`` belongs to the public internet, an IPv4 address inside an IPv6 one included."""
    if isinstance(address, IPv4Address):
        return (
            address.is_global
            and not (address.is_multicast or address.is_reserved)
            and not any(address in network for network in _NOT_PUBLIC)
        )
    inside = address.ipv4_mapped
    if inside is None and address in _NAT64:
        inside = IPv4Address(int(address) & 0xFFFFFFFF)
    if inside is not None:
        return is_public(inside)
    if address in _6TO4:
        return is_public(IPv4Address(int(address) >> 80 & 0xFFFFFFFF))
    return address.is_global and address in _IPV6_PUBLIC and address not in _TEREDO


@dataclass(frozen=True)
class AddressPolicy:
    """Which ports and addresses may be dialled.

    Args:
        ports: of URLs; 80 and 443, where web pages are, unless the user says otherwise.
        allow: networks (``"127.0.0.1/32"``) that may be dialled although they are not public: for tests, and for an
            intranet that is meant to be read.

    Raises:
        ConfigError: an entry of ``allow`` is no network.
    """

    ports: frozenset[int] = frozenset((80, 443))
    allow: tuple[str, ...] = ()
    _networks: tuple[IPv4Network | IPv6Network, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            networks = tuple(map(ipaddress.ip_network, self.allow))
        except ValueError as error:
            raise ConfigError(f"allow={self.allow!r}: {error}; write networks, e.g. ('127.0.0.1/32',)") from None
        object.__setattr__(self, "_networks", networks)

    def check_port(self, target: Target) -> None:
        """
        Raises:
            Refusal: the port is not among those that are asked.
        """
        if target.port not in self.ports:
            raise Refusal(f"port {target.port} is not read (only {', '.join(map(str, sorted(self.ports)))})")

    def check_addresses(self, host: str, addresses: Iterable[str]) -> list[Address]:
        """The addresses that ``host`` resolved to, when each one of them may be dialled.

        Raises:
            Refusal: one of them is not public (then the name as a whole is not trusted).
        """
        checked: list[Address] = []
        for text in addresses:
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                raise Refusal(f"{host} resolves to {text!r}, which is no address") from None
            if not is_public(address) and not any(address in network for network in self._networks):
                raise Refusal(f"{host} is not on the public web")
            checked.append(address)
        if not checked:
            raise Refusal(f"there is no host {host}")
        return checked
