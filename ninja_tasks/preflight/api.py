"""The way to the API: name, network, TLS. No HTTP request is sent, so no goal is counted."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

from ..config import API_PATH, Settings
from ..errors import told_by
from .finding import FAULT, OK, Finding

__all__ = ["look_at_api"]

_PORTS = {"https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080}


def look_at_api(settings: Settings) -> Finding:
    """Connect as the client of the API does, and verify the certificate.

    With a proxy, only the proxy is reached.
    """
    proxy, authorities = _way(settings)
    place = urlsplit(proxy or settings.api_url)
    host, port = str(place.hostname), place.port or _PORTS.get(place.scheme, 80)
    title = f"the proxy {host}:{port}" if proxy else settings.api_url
    try:
        with socket.create_connection((host, port), settings.connect_timeout_seconds) as connection:
            if place.scheme == "https":
                _trusting(authorities).wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return _fault(
            f"the certificate of {title} is not trusted ({error.verify_message})",
            "correct ninja_api_url; with an authority of your own, set ninja_trust_env and "
            "REQUESTS_CA_BUNDLE",
        )
    except OSError as error:
        return _fault(
            f"{title} cannot be reached ({told_by(error)})",
            "check ninja_api_url, the name server, the firewall and the proxy",
        )
    if proxy:
        unseen = "whether it lets goals through cannot be seen without sending one"
        return Finding(OK, "api", f"{title} takes connections; {unseen}")
    return Finding(OK, "api", f"{title} takes connections")


def _way(settings: Settings) -> tuple[str | None, str]:
    """Return the proxy and the file or directory of authorities that requests would use."""
    url = settings.api_url + API_PATH
    with requests.Session() as session:
        session.trust_env = settings.trust_env
        chosen = session.merge_environment_settings(url, {}, None, None, None)
    proxy = select_proxy(url, chosen["proxies"])
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    authorities = chosen["verify"]
    return proxy, authorities if isinstance(authorities, str) else DEFAULT_CA_BUNDLE_PATH


def _trusting(authorities: str) -> ssl.SSLContext:
    if Path(authorities).is_dir():
        return ssl.create_default_context(capath=authorities)
    return ssl.create_default_context(cafile=authorities)


def _fault(message: str, remedy: str) -> Finding:
    waiting = "goals wait, and become dead letters when they are too old"
    return Finding(FAULT, "api", f"{message}: {waiting}", remedy)
