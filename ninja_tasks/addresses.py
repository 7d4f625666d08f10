"""Addresses in settings and the environment: whether one can be used, as far as its text shows."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

__all__ = ["base_url", "environment_fault"]

_BASE_URL = re.compile(
    r"(?P<base>https?://(?P<host>[0-9A-Za-z_.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?)/?"
)
_LABEL = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?")
_LONGEST_NAME = 253
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PORTS = range(1, 65536)
_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


def base_url(text: str) -> str | None:
    """Return a URL of scheme, host and port without a slash at its end, ``None`` if it is none.

    Args:
        text: the URL.
    """
    matched = _BASE_URL.fullmatch(text)
    if matched is None or not _is_host(matched["host"].strip("[]"), in_brackets="[" in text):
        return None
    return matched["base"] if int(matched["port"] or _PORTS[0]) in _PORTS else None


def environment_fault(api_url: str, environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the variables that requests obey, ``None`` if nothing is.

    The text names the variable, and does not repeat its value, which can hold a password.

    Args:
        api_url: the base URL of the API.
        environment: ``os.environ``.
    """
    target = urlsplit(api_url)
    if target.scheme == "https":
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            path = environment.get(name)
            if path:
                return (
                    None if os.access(path, os.R_OK) else f"{name} names no file that can be read"
                )
    proxy = _proxy_variable(target, environment)
    return None if proxy is None else _proxy_fault(proxy, environment[proxy])


def _proxy_variable(target: SplitResult, environment: Mapping[str, str]) -> str | None:
    """Return the name of the variable that says by which proxy the API is reached."""
    around = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if proxy_bypass_environment(target.netloc, {"no": around}):
        return None
    names = (f"{target.scheme}_proxy", "all_proxy")
    return next(
        (one for name in names for one in (name, name.upper()) if environment.get(one)), None
    )


def _proxy_fault(variable: str, url: str) -> str | None:
    parts = _split(url)
    if (
        parts is None
        or parts.scheme not in _PROXY_SCHEMES
        or not _is_host(parts.hostname or "", in_brackets="[" in parts.netloc)
    ):
        return f'{variable} must be a URL with its scheme, such as "http://proxy.example:3128"'
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socks") is None:
        return f"{variable} names a SOCKS proxy, which takes: pip install pysocks"
    return None


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL, ``None`` if it is none."""
    try:
        parts = urlsplit(url)
        return parts if parts.port is None or parts.port in _PORTS else None
    except ValueError:
        return None


def _is_host(text: str, *, in_brackets: bool) -> bool:
    """Return whether a text can be the name or the address of a host."""
    labels = text.removesuffix(".").split(".")
    try:
        if in_brackets:
            return bool(ipaddress.IPv6Address(text))
        if _NUMBER.fullmatch(labels[-1]):
            return bool(ipaddress.IPv4Address(text))
    except ValueError:
        return False
    return len(text) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, labels))
