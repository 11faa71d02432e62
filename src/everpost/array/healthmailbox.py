"""One mailbox for each database, made by itself, in which the health checks log in. `Get-Mailbox` hides it (as the
field's managed availability does); `Get-Mailbox -Monitoring` shows it. The password is random, stands in the directory
only, which none but the organisation's servers can read, and in no file."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping

from everpost.directory import keys
from everpost.directory.interface import Directory
from everpost.directory.passwords import hash_password
from everpost.directory.schema import OrganizationView, encode
from everpost.model.recipient import HealthMailbox, Mailbox


def missing(organization: OrganizationView) -> list[str]:
    """Databases without a health mailbox, or whose health mailbox was removed."""
    found = organization.health_mailboxes
    return sorted(
        name for name in organization.databases if name not in found or found[name].guid not in organization.mailboxes
    )


def usable(organization: OrganizationView) -> list[HealthMailbox]:
    """Those whose database is there, by name."""
    return [one for name, one in sorted(organization.health_mailboxes.items()) if name in organization.databases]


async def make(directory: Directory, organization: OrganizationView, database: str) -> bool:
    """Make the health mailbox of a database; False if somebody else did, or the database is gone. Raises
    OutcomeUnknown and Unavailable: whoever looks next sees what became of it."""
    document = organization.organization
    if document is None or not document.domain:
        return False
    guid, password = str(uuid.uuid4()), secrets.token_urlsafe(24)
    alias = f"healthmailbox-{guid}"
    address = f"{alias}@{document.domain}"
    mailbox = Mailbox(
        guid=guid,
        name=f"HealthMailbox-{database}",
        alias=alias,
        addresses=(address,),
        database=database,
        password_hash=await hash_password(password),
        monitoring=True,
    )
    health = HealthMailbox(database=database, guid=guid, user=address, password=password)
    key, home = keys.health_mailbox(database), keys.database(database)
    revisions = {key: organization.revision(key), home: organization.revision(home)}
    if not revisions[home]:
        return False
    before = organization.health_mailboxes.get(database)
    if before is not None:
        # Its mailbox is gone, and not only unseen yet: two documents of one change come here one after the other.
        revisions[keys.mailbox(before.guid)] = 0
    puts = {key: encode(health), keys.mailbox(guid): encode(mailbox), keys.address(address): guid.encode()}
    return (await directory.txn(revisions, puts, attempt=1.0)).succeeded


def removal(organization: OrganizationView, database: str) -> Mapping[str, None]:
    """What goes with a database that is removed."""
    gone = [one for one in organization.mailboxes.values() if one.monitoring and one.database == database]
    found: dict[str, None] = {keys.health_mailbox(database): None}
    for mailbox in gone:
        found[keys.mailbox(mailbox.guid)] = None
        found.update({keys.address(address): None for address in mailbox.addresses})
    return found
