"""Makes a lab's client ports reachable from 127.0.0.1 while it is kept running."""

from __future__ import annotations

import ctypes
import socket
import threading

from everpost.lab.hosts import Host, Lab, NamespaceHost

PORTS = (("IMAP over TLS", "imaps", 993, 1993), ("IMAP", "imap", 143, 1143), ("SMTP", "smtp", 25, 2525))
"""What it is, the port's name, the standard port in a namespace, the port on 127.0.0.1."""
_CLONE_NEWNET = 0x40000000


def start_relays(lab: Lab, host: Host) -> list[str]:
    """Start what is needed; a line for each port."""
    lines = []
    for what, name, standard, local in PORTS:
        if isinstance(host, NamespaceHost):
            try:
                listener = socket.create_server(("127.0.0.1", local))
            except OSError as error:
                lines.append(f"{what}: not from outside, 127.0.0.1 port {local} is taken ({error.strerror})")
                continue
            threading.Thread(target=_relay, args=(host, standard, listener), daemon=True).start()
            lines.append(f"{what}: 127.0.0.1 port {local}")
        else:
            lines.append(f"{what}: {host.address} port {host.ports.get(name, standard)}")
    return lines


def _enter(space: str) -> None:
    """Move this thread into a network namespace."""
    with open(f"/run/netns/{space}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {space}")


def _relay(host: NamespaceHost, port: int, listener: socket.socket) -> None:
    """Listens outside, connects inside: a socket stays in the namespace in which it was made."""
    _enter(host.space)
    while True:
        outside, _ = listener.accept()
        try:
            inside = socket.create_connection((host.address, port), timeout=5)
        except OSError:
            outside.close()
            continue
        inside.settimeout(None)
        inside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for one, other in ((outside, inside), (inside, outside)):
            threading.Thread(target=_copy, args=(one, other), daemon=True).start()


def _copy(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            other.sendall(data)
    except OSError:
        pass
    finally:
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                end.close()
