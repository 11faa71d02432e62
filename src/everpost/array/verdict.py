"""Which servers are taken out of the balance because nobody can log in there: pure (spec 6.3).

A round logs in to all servers at the same time, in the same database. A log-in that failed counts against its server,
unless it failed everywhere: then what checks is itself cut off. One that stalled counts only if another server could do
it: a database on its way to another server stalls log-ins everywhere, and no server is to blame. Never are all servers
out.
"""

from __future__ import annotations

from collections.abc import Mapping

from everpost.net.login import Outcome, Result

FALL = 2
"""Rounds in a row that count against a server, until it is taken out."""
RISE = 2
"""Rounds in a row in which it worked, until it is put back."""


class Verdicts:
    """One protocol."""

    def __init__(self) -> None:
        self._bad: dict[str, int] = {}
        self._good: dict[str, int] = {}
        self._out: dict[str, str] = {}
        self._known: frozenset[str] = frozenset()

    @property
    def down(self) -> dict[str, str]:
        """Servers that are taken out, and why."""
        return {} if self._out.keys() >= self._known else dict(self._out)

    def heard(self, results: Mapping[str, Result]) -> None:
        """The results of a round, by server; a server that is in none any more is forgotten."""
        self._known = frozenset(results)
        for table in (self._bad, self._good, self._out):
            for gone in table.keys() - self._known:
                del table[gone]
        outcomes = {one.outcome for one in results.values()}
        counting = {
            Outcome.FAILED: outcomes != {Outcome.FAILED},
            Outcome.STALLED: Outcome.OK in outcomes,
        }
        for server, result in results.items():
            if result.outcome is Outcome.OK:
                self._bad.pop(server, None)
                self._good[server] = self._good.get(server, 0) + 1
                if self._good[server] >= RISE:
                    self._out.pop(server, None)
            elif counting[result.outcome]:
                self._good.pop(server, None)
                self._bad[server] = self._bad.get(server, 0) + 1
                if self._bad[server] >= FALL:
                    self._out[server] = result.why
