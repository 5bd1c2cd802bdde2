"""No test may reach another machine: Python asks here before it connects or looks up a name."""

import ipaddress
import socket
import sys
from typing import Any

_WATCHED = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname"}
tried: list[str] = []  # what was refused; libraries swallow the error


def refuse() -> None:
    """Refuse, in this process, every address and name that is not this machine's own."""
    sys.addaudithook(_hook)


def is_local(host: Any) -> bool:
    """Tell whether a host is this machine; None and "" are."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name in ("localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _hook(event: str, args: tuple) -> None:
    if event in _WATCHED:
        host = args[1][0] if isinstance(args[1], tuple) else None  # a path: AF_UNIX
    elif event in _LOOKUPS:
        host = args[0]
    else:
        return
    if not is_local(host):
        tried.append(f"{event} {args}")
        raise PermissionError(f"the tests have no network: {event} to {host!r}")
