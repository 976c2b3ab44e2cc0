"""Who asks the app, and which pages may: its own, and those that the operator names.

A browser says with each request which page it comes from. Programs such as curl and gradio_client
say nothing, and may ask. The rules are those of Go's `net/http.CrossOriginProtection`, with the
`Referer` of browsers that send neither `Sec-Fetch-Site` nor `Origin`.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ser_hf.errors import UserError

if TYPE_CHECKING:  # the command line checks origins without loading a server
    from starlette.types import Scope

_PORTS = {"http": 80, "https": 443}
_FORWARDED = (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")  # a proxy says so


class Origins:
    """The pages that the operator named."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Allow these.

        Args:
            allowed: origins such as `https://site.example`.

        Raises:
            UserError: for what is no origin.
        """
        self.allowed = sorted({_checked(origin) for origin in allowed})

    def allowed_source(self, scope: "Scope") -> str:
        """The named page that a request comes from; empty where none of them does."""
        source = _source(scope)
        return source if source in self.allowed else ""

    def refusal(self, scope: "Scope") -> str:
        """Why a request is refused that comes from another site's page; empty where it may pass."""
        source = _source(scope)
        if source in self.allowed or not _is_foreign(scope, source):
            return ""
        if _parts(source) is None:
            return "Pages of other sites may not ask this app: open its own page."
        return f"Pages of {source} may not ask this app: start it with --allowed_origin {source} to let them."


def header(scope: "Scope", name: bytes) -> str:
    """The value of a header, several joined by commas; empty where it is missing."""
    return ", ".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def client(scope: "Scope") -> str:
    """The IP address of who asks; empty where it is unknown."""
    return (scope.get("client") or ("", 0))[0]


def client_network(scope: "Scope") -> str:
    """Who asks, as limits count them: an address, of IPv6 the /64 network that one client has."""
    try:
        address = _address(scope)
    except ValueError:
        return client(scope)
    return str(ip_network((address, 64), strict=False) if address.version == 6 else address)


def _address(scope: "Scope") -> IPv4Address | IPv6Address:
    address = ip_address(client(scope))
    # a socket of IPv6 shows addresses of IPv4 so
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def is_this_machine(scope: "Scope") -> bool:
    """Whether a program on this machine asks, as health checks and Gradio's MCP server do.

    What came through a proxy is from elsewhere, whichever address its client claims to have.
    """
    try:
        is_loopback = _address(scope).is_loopback
    except ValueError:
        return False
    return is_loopback and not any(header(scope, name) for name in _FORWARDED)


def _is_foreign(scope: "Scope", source: str) -> bool:
    site = header(scope, b"sec-fetch-site").lower()
    if site == "same-origin":  # no page can forge it, and it holds behind any proxy
        return False
    if site not in ("", "none"):
        return True
    if not source:
        return False
    page = _parts(source)
    # A proxy may put its own name into Host. A page of another site cannot send X-Forwarded-Host:
    # the browser would ask for permission first.
    hosts = (header(scope, b"host"), header(scope, b"x-forwarded-host").partition(",")[0].strip())
    return page is None or page not in [_parts(f"{urlsplit(source).scheme}://{host}") for host in hosts if host]


def _source(scope: "Scope") -> str:
    """The origin of the page that asks, as far as the browser tells it."""
    if origin := header(scope, b"origin"):
        return origin.lower()
    page = _parts(referer := header(scope, b"referer"))
    if page is None:
        return referer
    scheme, host, port = urlsplit(referer).scheme, *page
    return _written(scheme, host, port)


def _written(scheme: str, host: str, port: int) -> str:
    """An origin as browsers write it (RFC 6454)."""
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + ("" if port == _PORTS[scheme] else f":{port}")


def _parts(address: str) -> tuple[str, int] | None:
    """Host and port of an address of the web; None of anything else."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return parts.hostname, port or _PORTS[parts.scheme]


def _checked(origin: str) -> str:
    page = _parts(origin)
    parts = urlsplit(origin if page is not None else "")
    if page is None or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc or "*" in origin:
        raise UserError(f"--allowed_origin is '{origin}': a scheme and a host are needed, as https://site.example")
    return _written(parts.scheme, *page)
