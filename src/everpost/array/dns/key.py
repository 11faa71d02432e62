"""TSIG keys in files, as `tsig-keygen` (BIND) and `keymgr -t` (Knot) write them. A secret stays in its `Key`."""

from __future__ import annotations

import base64
import binascii
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from everpost.errors import Refused

ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224")
"""RFC 8945 6: MD5 and SHA-1 must not be used any more."""


@dataclass(frozen=True)
class Key:
    """A name, an algorithm, and a secret that is never shown."""

    name: str
    algorithm: str
    secret: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.algorithm})"


def read(path: Path) -> Key:
    """The key in a file that only its owner and group may read. Raises Refused."""
    try:
        with path.open(encoding="utf-8") as file:
            if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise Refused(
                    f"{path} is readable by everybody.", remedy=f"chmod 600 {path}; better make a new key as well."
                )
            text = file.read(65536)
    except FileNotFoundError:
        raise Refused(
            f"There is no TSIG key in {path}.", remedy=f"tsig-keygen -a hmac-sha256 everpost > {path} makes one."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path} cannot be read: {error}.", remedy="It must belong to the user everpost.") from None
    return parse(text, str(path))


def parse(text: str, where: str) -> Key:
    """BIND's `key "n" { algorithm a; secret "s"; };` or Knot's `key: - id: n, algorithm: a, secret: s`. Raises
    Refused."""
    bare = re.sub(r"(?m)^\s*(#|//).*$", "", text)
    names = re.findall(r"(?m)^\s*key\s+\"?([^\s\"{;]+)\"?\s*\{|^\s*-\s*id:\s*\"?([^\s\"]+)", bare)
    algorithms = re.findall(r"\balgorithm:?\s+\"?([A-Za-z0-9-]+)", bare)
    secrets = re.findall(r"\bsecret:?\s+\"?([A-Za-z0-9+/=]+)", bare)
    if not (len(names) == len(algorithms) == len(secrets) == 1):
        raise Refused(
            f"{where} does not hold exactly one TSIG key.", remedy="tsig-keygen or keymgr -t writes such a file."
        )
    algorithm = algorithms[0].lower()
    if algorithm not in ALGORITHMS:
        raise Refused(f"{where} has the algorithm {algorithm}.", remedy=f"Use one of {', '.join(ALGORITHMS)}.")
    try:
        secret = base64.b64decode(secrets[0], validate=True)
    except binascii.Error:
        raise Refused(f"The secret in {where} is not base64.", remedy="Make the file anew.") from None
    if not secret:
        raise Refused(f"The secret in {where} is empty.", remedy="Make the file anew.")
    return Key(name=(names[0][0] or names[0][1]).rstrip(".").lower(), algorithm=algorithm, secret=secret)
