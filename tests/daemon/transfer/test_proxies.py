"""Proxies of the environment, and what is asked without them."""

from __future__ import annotations

import base64

import pytest
from yarl import URL

from mooraged.transfer.failures import HostFailure
from mooraged.transfer.proxies import bypasses, proxy_for


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_no_proxy_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for(URL("https://quay.io/v2/")) == (None, {})


def test_proxies_by_scheme_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://anna:harb%40ur@proxy.example:3128")
    monkeypatch.setenv("HTTP_PROXY", "plain.example:8080")
    monkeypatch.setenv("NO_PROXY", "internal.example,.corp.example")
    login = "Basic " + base64.b64encode(b"anna:harb@ur").decode()
    proxy = URL("http://proxy.example:3128")
    assert proxy_for(URL("https://quay.io/v2/")) == (proxy, {"Proxy-Authorization": login})
    assert proxy_for(URL("http://quay.io/")) == (URL("http://plain.example:8080"), {})
    for host in ("internal.example", "a.corp.example", "localhost", "127.0.0.1", "[::1]"):
        assert proxy_for(URL(f"https://{host}/v2/")) == (None, {})


@pytest.mark.parametrize("value", ["socks5://proxy.example:1080", "http://", "http://[::1"])
def test_what_is_no_proxy(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("https_proxy", value)
    with pytest.raises(HostFailure, match="HTTPS_PROXY names no proxy"):
        proxy_for(URL("https://quay.io/v2/"))


@pytest.mark.parametrize(
    ("no_proxy", "direct", "proxied"),
    [
        ("", ["localhost", "127.0.0.1", "127.1.2.3", "::1"], ["quay.io", "10.0.0.1"]),
        ("*", ["quay.io", "10.0.0.1"], []),
        ("example.com", ["example.com", "a.example.com", "EXAMPLE.com."], ["notexample.com", "example.com.org"]),
        (".example.com", ["a.example.com", "a.b.example.com"], ["example.com"]),
        ("*.example.com", ["a.example.com"], ["example.com"]),
        ("10.0.0.0/8,fd00::/8", ["10.1.2.3", "fd00::5"], ["11.0.0.1", "10.example.com", "fe80::1"]),
        ("192.0.2.7 , quay.io", ["192.0.2.7", "quay.io"], ["192.0.2.70"]),
        ("2001:db8::1", ["2001:db8:0::1"], ["2001:db8::2"]),
        ("example.com:5000,[2001:db8::1]:5000", ["example.com", "2001:db8::1"], ["quay.io"]),
        ("example.com:80", [], ["example.com"]),
    ],
)
def test_what_is_asked_directly(no_proxy: str, direct: list[str], proxied: list[str]) -> None:
    assert [host for host in direct if not bypasses(host, 5000, no_proxy)] == []
    assert [host for host in proxied if bypasses(host, 5000, no_proxy)] == []
