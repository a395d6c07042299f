"""A GET over HTTP(S) that a hostile server can neither aim elsewhere, nor hold, nor fill up.

What every fetch is bounded by, and where:

* **address**: the connection is made by :class:`_Network`, httpcore's hook for opening sockets. It resolves the name
  once, checks every address, and dials one of those; TLS then checks the certificate against the *name*. Each
  redirect is a new request and goes the same way. Nothing else in this package opens a socket.
* **time**: one :class:`Budget` for the whole fetch; each read and write gets what is left of it, so a server that
  drips a byte now and then gains nothing.
* **size**: headers by httpcore (100 KiB), the wire by :class:`_Stream`, the body after decompression by
  :class:`_Inflater`, which never inflates more than it may keep.

Nothing of the host goes along: no proxy, cookie, netrc or referrer (httpcore knows none of these), and an agent name
that says what this is.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from arpo_env.errors import ConfigError, ToolUnavailable
from arpo_env.web.address import AddressPolicy, Target, parse_url
from arpo_env.web.base import PageFault, Refusal

try:
    import httpcore2
except ImportError as error:
    raise ToolUnavailable(f"reading the live web needs httpcore2: pip install 'arpo[web]' ({error})") from None

#: Host name and port -> IP addresses as text, best first.
Resolver = Callable[[str, int], Sequence[str]]
#: (IP address, port, seconds) -> an open connection.
Dialler = Callable[[str, int, float], httpcore2.NetworkStream]

#: What a server may send besides the body: headers, chunk sizes, TLS.
_ENVELOPE_BYTES = 1 << 18
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


@dataclass(frozen=True)
class Document:
    """What a server sent: the address it came from (after redirects), status, media type, charset, body."""

    target: Target
    status: int
    media_type: str
    charset: str
    body: bytes
    retry_after: float = 0.0

    def check_status(self) -> None:
        """
        Raises:
            Refusal: the status says that there is no such page, or none for the public.
            PageFault: it says anything else but success.
        """
        if self.status in (200, 203):
            return
        text = f"{self.target.host} answered HTTP {self.status}"
        if self.status in _PASSING:
            raise PageFault(text, may_pass=True, retry_after=self.retry_after)
        # 403 is what robots are told who are not wanted, whatever they ask for.
        if 400 <= self.status < 500 and self.status not in (403, 407):
            raise Refusal(f"there is no such page to read ({text})")
        raise PageFault(text)


class Budget:
    """Seconds that a fetch has left. Waiting for one's turn (``paused``) is not taken off."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = seconds
        self._end = clock() + seconds

    def left(self) -> float:
        """
        Raises:
            PageFault: nothing is left.
        """
        left = self._end - self._clock()
        if left <= 0:
            raise PageFault(f"no complete reply in {self._seconds:g} s", may_pass=True)
        return left

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = self._clock()
        yield
        self._end += self._clock() - start


def resolve(host: str, port: int) -> Sequence[str]:
    """The system's resolver. The hosts file counts, as everywhere: what it gives is checked like any other answer.

    Raises:
        Refusal: there is no such host.
        PageFault: the resolver does not answer.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            raise Refusal(f"there is no host {host}") from None
        raise PageFault(f"the name {host} could not be resolved: {error.strerror}", may_pass=True) from None
    except (OSError, UnicodeError) as error:
        raise PageFault(f"the name {host} could not be resolved: {error}", may_pass=True) from None
    return [str(entry[4][0]) for entry in found]


def dial(address: str, port: int, seconds: float) -> httpcore2.NetworkStream:
    """A TCP connection to an IP address."""
    return httpcore2.SyncBackend().connect_tcp(address, port, timeout=seconds)


class Fetcher:
    """Fetches one URL at a time; thread-safe.

    Args:
        policy: which ports and addresses may be dialled.
        agent: the ``User-Agent``; an honest one.
        max_bytes: of a body, on the wire as well as decompressed.
        max_redirects: hops before giving up.
        ssl_context: default: the system's certificate authorities.
        resolver, dialler: how names are resolved and connections made (tests pass their own).

    Raises:
        ConfigError: a number out of range.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        agent: str,
        max_bytes: int = 3 << 20,
        max_redirects: int = 5,
        ssl_context: ssl.SSLContext | None = None,
        resolver: Resolver = resolve,
        dialler: Dialler = dial,
    ) -> None:
        if max_bytes < 1 or max_redirects < 0:
            raise ConfigError(f"need max_bytes >= 1 and max_redirects >= 0; got {max_bytes=}, {max_redirects=}")
        self.policy, self.agent = policy, agent
        self._max_bytes, self._max_redirects = max_bytes, max_redirects
        self._ssl_context = httpcore2.default_ssl_context() if ssl_context is None else ssl_context
        self._resolver, self._dialler = resolver, dialler

    def fetch(self, url: str, budget: Budget, before: Callable[[Target], None] = lambda _: None) -> Document:
        """The document at ``url``, redirects followed; its status is for the caller to judge.

        ``before`` is asked about each address before anything is sent to it (robots.txt, rate limits), and may raise.

        Raises:
            Refusal: the URL, or one that it leads to, is not to be read.
            PageFault: no proper reply.
        """
        target = parse_url(url)
        seen = {target.url}
        for _ in range(self._max_redirects + 1):
            self.policy.check_port(target)
            before(target)
            document, location = self._get(target, budget)
            if location is None:
                return document
            try:
                onward = urljoin(target.url, location)
            except ValueError as error:
                raise PageFault(f"{target.host} redirects to no URL ({error})") from None
            # The fragment is dropped and the rest checked as if it came from the policy.
            target = parse_url(onward)
            if target.url in seen:
                raise PageFault(f"{target.host} redirects in a circle")
            seen.add(target.url)
        raise PageFault(f"{url} redirects more than {self._max_redirects} times")

    # ------------------------------------------------------------------ one request

    def _get(self, target: Target, budget: Budget) -> tuple[Document, str | None]:
        """One request; the second value is where a redirect points."""
        network = _Network(self.policy, self._resolver, self._dialler, budget, self._max_bytes + _ENVELOPE_BYTES)
        headers = [
            ("Host", target.netloc),
            ("User-Agent", self.agent),
            ("Accept", "text/html, application/xhtml+xml, text/plain;q=0.9, */*;q=0.1"),
            ("Accept-Encoding", "gzip, deflate"),
            ("Connection", "close"),
        ]
        origin = httpcore2.Origin(target.scheme.encode(), target.host.encode(), target.port)
        url = httpcore2.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        try:
            with (
                httpcore2.HTTPConnection(origin, ssl_context=self._ssl_context, network_backend=network) as connection,
                connection.stream("GET", url, headers=headers) as response,
            ):
                return self._read(target, response)
        except httpcore2.TimeoutException:
            budget.left()  # raises, unless the system's own limit was the shorter one
            raise PageFault(f"{target.host} did not answer in time", may_pass=True) from None
        except httpcore2.NetworkError as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise PageFault(f"the certificate of {target.host} is not valid: {cause.verify_message}") from None
            raise PageFault(f"{target.host} cannot be reached: {error}", may_pass=True) from None
        except httpcore2.ProtocolError as error:
            raise PageFault(f"{target.host} does not speak proper HTTP: {error}", may_pass=True) from None

    def _read(self, target: Target, response: httpcore2.Response) -> tuple[Document, str | None]:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in response.headers}
        location = headers.get("location")
        media_type, charset = _content_type(headers.get("content-type", ""))
        empty = Document(target, response.status, media_type, charset, b"", _seconds(headers.get("retry-after", "")))
        if response.status in _REDIRECTS and location:
            return empty, location
        if response.status not in (200, 203):
            return empty, None  # an error page is nobody's reading
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            raise self._too_large(target)
        inflater = _Inflater(headers.get("content-encoding", ""), self._max_bytes, target.host)
        body = bytearray()
        for part in response.iter_stream():
            body += inflater.feed(part)
            if len(body) > self._max_bytes:
                raise self._too_large(target)
        inflater.finish()
        return Document(target, response.status, media_type, charset, bytes(body)), None

    def _too_large(self, target: Target) -> PageFault:
        return PageFault(f"the page on {target.host} is larger than {self._max_bytes} bytes")


class _Inflater:
    """Undoes a content coding, never giving out more than ``limit`` + 1 bytes in all.

    Raises:
        PageFault: a coding that was not asked for, or data that are none of it.
    """

    def __init__(self, coding: str, limit: int, host: str) -> None:
        coding = coding.lower()
        if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise PageFault(f"{host} compressed the page with {coding[:40]!r}, which was not asked for")
        self._plain = coding in ("", "identity")
        # "deflate" is zlib's format, or by a widespread mistake the raw one: the first byte tells.
        self._deflate = coding == "deflate"
        self._machine: Any = None if self._deflate else zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._left, self._host = limit + 1, host

    def feed(self, data: bytes) -> bytes:
        if self._plain or not data:
            return data
        if self._machine is None:
            self._machine = zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        try:
            out: bytes = self._machine.decompress(data, self._left) if self._left else b""
        except zlib.error as error:
            raise PageFault(f"{self._host} sent a damaged page: {error}", may_pass=True) from None
        self._left -= len(out)
        return out

    def finish(self) -> None:
        if not self._plain and self._machine is not None and not self._machine.eof:
            raise PageFault(f"{self._host} sent a damaged page: it breaks off", may_pass=True)


class _Network(httpcore2.NetworkBackend):
    """Opens the one connection of a request: resolved once, checked, bounded."""

    def __init__(
        self, policy: AddressPolicy, resolver: Resolver, dialler: Dialler, budget: Budget, max_bytes: int
    ) -> None:
        self._policy, self._resolver, self._dialler = policy, resolver, dialler
        self._budget, self._max_bytes = budget, max_bytes

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = self._policy.check_addresses(host, self._resolve(host, port))
        for number, address in enumerate(addresses, 1):
            # A host of several addresses (IPv6 without a route) must not spend everything on the first.
            share = self._budget.left() / (len(addresses) - number + 1)
            try:
                stream = self._dialler(str(address), port, share)
            except (httpcore2.NetworkError, httpcore2.TimeoutException):
                if number == len(addresses):
                    raise
            else:
                return _Stream(stream, self._budget, self._max_bytes)
        raise AssertionError("unreachable")

    def _resolve(self, host: str, port: int) -> Sequence[str]:
        if ":" in host or host.replace(".", "").isdecimal():
            return [host]  # parse_url lets numbers through only where they are an address
        # In a thread: nothing else can end a wait for the system's resolver.
        outcome: list[Sequence[str] | BaseException] = []

        def ask() -> None:
            try:
                outcome.append(self._resolver(host, port))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=ask, name=f"resolve {host}", daemon=True)
        thread.start()
        thread.join(self._budget.left())
        if not outcome:
            raise PageFault(f"the name {host} could not be resolved in time", may_pass=True)
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore2.NetworkStream:
        raise Refusal("no socket of this machine is read")


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads and writes share one budget of time, and whose reads one of bytes."""

    def __init__(self, stream: httpcore2.NetworkStream, budget: Budget, max_bytes: int) -> None:
        self._stream, self._budget, self._left = stream, budget, max_bytes

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._budget.left())
        self._left -= len(data)
        if self._left < 0:
            raise PageFault("the server sends more than may be read")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._budget.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        secure = self._stream.start_tls(ssl_context, server_hostname, self._budget.left())
        return _Stream(secure, self._budget, self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _content_type(header: str) -> tuple[str, str]:
    """``text/html; charset=UTF-8`` -> (``text/html``, ``utf-8``), either possibly empty."""
    media_type, *parameters = header.lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return media_type.strip(), value.strip().strip("\"'")
    return media_type.strip(), ""


def _seconds(header: str) -> float:
    """``Retry-After`` in seconds; dates are not read (the back-off serves)."""
    return float(header) if header.isdecimal() and len(header) < 10 else 0.0
