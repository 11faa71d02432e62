"""Which server's member leads etcd, and making another one lead. Runs in a process of its own on a host of the lab:

python -m everpost.lab.leader TLS-FOLDER CLIENT-URL[,CLIENT-URL] [URL-TO-LEAD]
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path

from everpost.directory.gateway import MEMBER_ERRORS, Gateway
from everpost.lab.organisation import CommandFailed, Organisation, Server
from everpost.net import tls

LIMIT = 3.0
_STATUS = "/v3/maintenance/status"
_TRANSFER = "/v3/maintenance/transfer-leadership"


async def _lead(folder: Path, urls: list[str], wanted: str | None) -> str:
    """The URL of the leader, after the change if one was `wanted`; "" while there is none."""
    gateway = Gateway(urls, tls.client_context(folder), None)
    try:
        ids: dict[str, str] = {}
        leader = "0"
        for url in urls:
            try:
                found = await gateway.post(url, _STATUS, {}, LIMIT)
            except MEMBER_ERRORS:
                continue
            ids[found["header"]["member_id"]] = url
            leader = found.get("leader", "0")
        if wanted is None or ids.get(leader) == wanted:
            return ids.get(leader, "")
        target = next(identity for identity, url in ids.items() if url == wanted)
        await gateway.post(ids[leader], _TRANSFER, {"targetID": target}, LIMIT)
        return wanted
    finally:
        await gateway.close()


def leader(organisation: Organisation, *, wanted: Server | None = None, by: Server | None = None) -> Server | None:
    """The server whose member leads, None while nobody does; `wanted` is made the leader first. `by`: the host that
    asks, the second server unless another is named. Raises CommandFailed."""
    asking = by or organisation.servers[1]
    urls = {f"https://{one.host.address}:2379": one for one in organisation.all}
    out = asking.host.root / f"leader-{uuid.uuid4().hex}"
    argv = [sys.executable, "-m", "everpost.lab.leader", str(asking.data / "tls"), ",".join(urls)]
    argv += [f"https://{wanted.host.address}:2379"] if wanted is not None else []
    process = asking.host.spawn(argv, out)
    status = process.popen.wait(30)
    said = out.read_text(errors="replace")
    out.unlink()
    if status != 0:
        raise CommandFailed(f"The leader of etcd is not known: {said[-500:]}")
    return urls.get(json.loads(said.splitlines()[-1]))


def main() -> None:
    folder, urls, *wanted = sys.argv[1:]
    print(json.dumps(asyncio.run(_lead(Path(folder), urls.split(","), wanted[0] if wanted else None))))


if __name__ == "__main__":
    main()
