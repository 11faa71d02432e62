"""Which servers are taken out of the balance because nobody can log in there: pure (spec 6.3).

A round logs in to all servers at the same time, in the same database. It says something of a server only if another one
could do it: if nobody could, the database is on its way to another server, or what checks is itself cut off, and no
server is blamed. So the checks alone can never take out all servers.
"""

from __future__ import annotations

from collections.abc import Mapping

from everpost.net.login import Outcome, Result

FALL = 2
"""Rounds in a row in which a server failed and another did not, until it is taken out."""
RISE = 2
"""Rounds in a row in which it worked, until it is put back."""


class Verdicts:
    """One protocol."""

    def __init__(self) -> None:
        self._bad: dict[str, int] = {}
        self._good: dict[str, int] = {}
        self.down: dict[str, str] = {}
        """Servers that are taken out, and why."""

    def heard(self, results: Mapping[str, Result]) -> None:
        """The results of a round, by server; a server that is in none any more is forgotten."""
        for gone in self.down.keys() - results.keys():
            del self.down[gone]
        if not any(one.outcome is Outcome.OK for one in results.values()):
            return
        for server, result in results.items():
            if result.outcome is Outcome.OK:
                self._bad.pop(server, None)
                self._good[server] = self._good.get(server, 0) + 1
                if self._good[server] >= RISE:
                    self.down.pop(server, None)
            else:
                self._good.pop(server, None)
                self._bad[server] = self._bad.get(server, 0) + 1
                if self._bad[server] >= FALL:
                    self.down[server] = result.why
