"""What every system that is measured has: two servers in a lab."""

from __future__ import annotations

import abc
from collections.abc import Callable

from everpost.lab.hosts import NamespaceHost, NamespaceLab

Say = Callable[[str], None]


class Pair(abc.ABC):
    """Two servers of one system."""

    name: str

    def __init__(self, lab: NamespaceLab, say: Say) -> None:
        self.lab = lab
        self.say = say

    @property
    @abc.abstractmethod
    def hosts(self) -> tuple[NamespaceHost, NamespaceHost]:
        """The two servers."""
