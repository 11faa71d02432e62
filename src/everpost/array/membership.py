"""Which servers belong to an array (spec 6.2): pure."""

from __future__ import annotations

from everpost.directory.schema import OrganizationView
from everpost.model.array import ClientAccessArray
from everpost.model.server import Role, Server


def members(organization: OrganizationView, array: ClientAccessArray) -> list[Server]:
    """All client access servers of the array's site (spec 6.2)."""
    return [
        one
        for one in organization.servers.values()
        if Role.CLIENT_ACCESS in one.roles and one.site.lower() == array.site.lower()
    ]


def owners(organization: OrganizationView, array: ClientAccessArray) -> list[str]:
    """Who may hold the address, the preferred one first."""
    names = sorted(one.name for one in members(organization, array))
    return [name for name in array.hostname if name in names] if array.hostname else names
