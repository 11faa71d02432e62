"""The agent's end of the warden's socket: many copies, one question."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from everpost.databases.warden_client import WardenClient


class SmallWarden:
    """Answers with the number of the question as the pid, once it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            self.asked += 1
            row = {"pid": self.asked, "running": True, "label": None, "exit": None}
            await self.may_answer.wait()
            writer.write(json.dumps({"instances": {"MB01": row}}).encode() + b"\n")
        writer.close()


async def test_copies_share_a_question_that_was_not_sent_yet_and_never_an_older_answer(tmp_path: Path) -> None:
    warden, path = SmallWarden(), tmp_path / "w.sock"
    server = await asyncio.start_unix_server(warden.serve, str(path))
    client = WardenClient(path)

    async def pid() -> int:
        return (await client.children())["MB01"].pid

    first = [asyncio.create_task(pid()) for _ in range(5)]
    while not warden.asked:
        await asyncio.sleep(0.001)
    later = [asyncio.create_task(pid()) for _ in range(5)]  # what they see must not be older than their question
    later[0].cancel()
    await asyncio.sleep(0)
    later[1].cancel()  # whoever gives up takes nothing from the others
    warden.may_answer.set()
    assert await asyncio.gather(*first) == [1] * 5
    assert await asyncio.gather(*later[2:]) == [2] * 3
    assert warden.asked == 2
    client.close()
    server.close()
