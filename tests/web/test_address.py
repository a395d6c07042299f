"""Which URLs and addresses may be asked at all."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError
from arpo_env.web.address import AddressPolicy, is_public, parse_url
from arpo_env.web.base import Refusal


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.0.192", "192.88.99.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:1::1", "100::1",
    ],
)  # fmt: skip
def test_what_is_not_the_public_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(Refusal, match="not on the public web"):
        AddressPolicy().check_addresses("name.test", ["93.184.216.34", address])


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_what_is(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_ipv6_dress(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for dressed in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        assert is_public(ipaddress.IPv6Address(dressed)) == is_public(address)


def test_what_is_allowed_is_allowed_by_name_only() -> None:
    policy = AddressPolicy(allow=("127.0.0.1/32", "fd00::/8"))
    assert len(policy.check_addresses("h", ["127.0.0.1", "fd00::1"])) == 2
    for other in ("127.0.0.2", "::1", "::ffff:127.0.0.1", "10.0.0.1"):
        with pytest.raises(Refusal):
            policy.check_addresses("h", [other])
    with pytest.raises(ConfigError, match="write networks"):
        AddressPolicy(allow=("localhost",))
    with pytest.raises(Refusal, match="no host"):
        policy.check_addresses("h", [])


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://Example.ORG", "http://example.org/"),
        ("https://example.org:443/a b#part".replace(" ", "%20"), "https://example.org/a%20b"),
        ("https://example.org:8443/?q=1", "https://example.org:8443/?q=1"),
        ("https://bücher.example/straße", "https://xn--bcher-kva.example/stra%C3%9Fe"),
        ("http://[2606:4700::1111]:80/x", "http://[2606:4700::1111]/x"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
    ],
)
def test_urls_are_normalised(url: str, normal: str) -> None:
    assert parse_url(url).url == normal


@pytest.mark.parametrize(
    "url",
    [
        "", "example.org", "ftp://example.org/", "file:///etc/passwd", "gopher://x/", "javascript:alert(1)", "http://",
        "http://user:pw@example.org/", "http://example.org:99999/", "http://exa mple.org/", "http://a\\@b/",
        "http://example.org/\r\nHost: x", "http://a_b..c/", "http://[::1", "http://[fe80::1%25eth0]/",
        "http://" + "a" * 64 + ".org/", "http://example.org/" + "a" * 3000, "http://%31/",
        "http://example.org/\ud800", "http://example.org/?\ud800",
        # numbers in other notations: 127.0.0.1, each of them
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://127.1/", "http://0177.0.0.1/",
        "http://127.0.0.01/", "http://１２７.1/", "http://127.0.0.1./", "http://example.0x7f/",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(Refusal):
        parse_url(url)


@settings(max_examples=300)
@given(st.text(max_size=40) | st.text(max_size=30).map(lambda text: f"http://{text}"))
def test_any_text_is_a_url_or_refused_and_a_url_stays_one(text: str) -> None:
    try:
        target = parse_url(text)
    except Refusal:
        return
    assert parse_url(target.url) == target
    assert target.url.isascii()
    assert not set(target.url) & set(" \r\n\t\\")


def test_ports() -> None:
    AddressPolicy().check_port(parse_url("https://example.org/"))
    with pytest.raises(Refusal, match=r"port 22 is not read \(only 80, 443\)"):
        AddressPolicy().check_port(parse_url("http://example.org:22/"))
