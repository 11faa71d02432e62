"""Which names clients use and are told: the array's, always, unless an administrator said otherwise (spec 6.2, P15)."""

from __future__ import annotations

from everpost.directory.schema import OrganizationView
from everpost.errors import Refused
from everpost.model.array import ClientAccessArray
from everpost.model.database import MailboxDatabase
from everpost.model.server import Role


def server_fqdn(organization: OrganizationView, name: str) -> str:
    """A server's full name."""
    document = organization.organization
    return f"{name.lower()}.{document.domain}" if document is not None and document.domain else name.lower()


def client_access_name(organization: OrganizationView, database: MailboxDatabase) -> str:
    """RpcClientAccessServer of a database: what was set, else the array of the site of its preferred server, also if
    the array was made later than the database (T-ARR-1), else that server."""
    set_name = database.rpc_client_access_server
    if set_name:
        array = by_name(organization, set_name)
        return array.fqdn if array is not None else set_name
    server = organization.servers.get(database.servers[0]) if database.servers else None
    array = organization.array_of(server.site) if server is not None else None
    if array is not None:
        return array.fqdn
    return server_fqdn(organization, server.name) if server is not None else ""


def by_name(organization: OrganizationView, name: str) -> ClientAccessArray | None:
    """The array with that FQDN, present or former (T-ARR-3)."""
    wanted = name.lower().rstrip(".")
    for array in organization.arrays.values():
        if wanted == array.fqdn.lower() or wanted in (alias.lower() for alias in array.aliases):
            return array
    return None


def known_client_access_name(organization: OrganizationView, name: str) -> str:
    """The name of an array or of a client access server, as RpcClientAccessServer takes it (ARR-7). Raises Refused."""
    if not name:
        return ""
    array = by_name(organization, name)
    if array is not None:
        return array.fqdn
    for server in organization.servers.values():
        if Role.CLIENT_ACCESS in server.roles and name.lower() in (
            server.name.lower(),
            server_fqdn(organization, server.name),
        ):
            return server_fqdn(organization, server.name)
    raise Refused(
        f"{name} is neither a client access array nor a client access server.",
        remedy="Get-ClientAccessArray and Get-ExchangeServer list them.",
    )
