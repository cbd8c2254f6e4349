"""The replicas behind a name: a service's name in a compose file or a cluster stands for several addresses."""

import ipaddress
import socket
from urllib.parse import urlsplit, urlunsplit

__all__ = ["each_address", "look_up"]


def each_address(url: str) -> list[str]:
    """Return what `look_up` returns, or the URL itself where its name cannot be resolved: the request will say so."""
    try:
        return look_up(url)
    except OSError:
        return [url]


def look_up(url: str) -> list[str]:
    """Return a URL per address of a URL's host, or the URL itself where there are not several.

    Only of plain http: over https, certificates are for names. Addresses of one family only, for a host with an address
    of each is one host.

    Raises:
        OSError: the name cannot be resolved now.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or host == "localhost" or _is_address(host):
        return [url]
    found = socket.getaddrinfo(host, parts.port or 80, socket.AF_INET, socket.SOCK_STREAM)
    addresses = sorted({str(entry[4][0]) for entry in found})
    if len(addresses) < 2:
        return [url]
    port = f":{parts.port}" if parts.port else ""
    return [urlunsplit(parts._replace(netloc=address + port)) for address in addresses]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
