"""Asks the whole network who has an address, again and again, and notes every claim to it.

    python -m everpost.lab.load.arpwatch --ledger F --name N --link L --address A

Facts: `claim` with the MAC that answered or announced itself, and whether it was asked for.
"""

from __future__ import annotations

import argparse
import ipaddress
import select
import socket
import time

from everpost.array.announce import arp, arp_owner
from everpost.lab.load.ledger import Ledger

EVERY = 0.02
_ARP = 0x0806


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ledger", "name", "link", "address"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    ledger = Ledger(arguments.ledger)
    address = ipaddress.IPv4Address(arguments.address).packed
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ARP))
    ear.bind((arguments.link, _ARP))
    own: bytes = ear.getsockname()[4]
    question = arp(own, b"\0" * 4, address)
    asked = 0.0
    while not ledger.stopping():
        if time.monotonic() - asked >= EVERY:
            asked = time.monotonic()
            ear.send(question)
        if select.select([ear], [], [], EVERY)[0]:
            frame = ear.recv(2048)
            found = arp_owner(frame)
            if found is not None and found[1] == address and found[0] != own:
                ledger.note("claim", mac=found[0].hex(":"), announced=frame[:6] == b"\xff" * 6)


if __name__ == "__main__":
    main()
