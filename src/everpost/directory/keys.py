"""Where things are in the directory. Only this module spells a key."""

from __future__ import annotations

ROOT = "/everpost/"
CONFIG = ROOT + "config/"
ORGANIZATION = CONFIG + "organization"
GENERATION = CONFIG + "generation"
SERVERS = CONFIG + "server/"
DAGS = CONFIG + "dag/"
DATABASES = CONFIG + "database/"
MAINTENANCE = CONFIG + "maintenance/"
CLIENT_ACCESS_ARRAYS = CONFIG + "array/"
ARRAY_NAMES = CONFIG + "array-names"
"""Written with each name, FQDN and address that an array is given: the guard that no two get the same."""
DNS_ZONES = CONFIG + "dns/"
MAILBOXES = CONFIG + "mailbox/"
ADDRESSES = CONFIG + "address/"
HEALTH_MAILBOXES = CONFIG + "health-mailbox/"
LOCATIONS = ROOT + "location/"
TENURES = ROOT + "tenure/"
FENCES = ROOT + "fence/"
PAMS = ROOT + "pam/"
PROGRESS = ROOT + "progress/"
STATUS = ROOT + "status/"
TOKENS = ROOT + "token/"
JOURNAL = ROOT + "journal/"
ARRAYS = ROOT + "array/"
DNS_UPDATER = ARRAYS + "_dns/updater"
"""Which server keeps the DNS records (`model.dns.DnsUpdater`). No array's name begins with an underscore."""


def server(name: str) -> str:
    """A joined host (`model.server.Server`)."""
    return SERVERS + name


def dag(name: str) -> str:
    """A database availability group."""
    return DAGS + name


def database(name: str) -> str:
    """A mailbox database and its copies."""
    return DATABASES + name


def maintenance(server_name: str) -> str:
    """A server in maintenance (`model.server.MaintenanceRecord`)."""
    return MAINTENANCE + server_name


def mailbox(guid: str) -> str:
    """A mailbox (`model.recipient.Mailbox`)."""
    return MAILBOXES + guid


def address(smtp: str) -> str:
    """An SMTP address in lower case; the value is the mailbox's guid."""
    return ADDRESSES + smtp.lower()


def health_mailbox(database_name: str) -> str:
    """How the health checks log in to a database (`model.recipient.HealthMailbox`)."""
    return HEALTH_MAILBOXES + database_name


def location(database_name: str) -> str:
    """Where a database is active (`model.database.Location`)."""
    return LOCATIONS + database_name


def tenure(server_name: str) -> str:
    """Renewed by its server (`model.tenure.TenureRecord`)."""
    return TENURES + server_name


def fence(server_name: str) -> str:
    """Changes only when tenure is acquired or taken (`model.tenure.FencingRecord`)."""
    return FENCES + server_name


def pam(dag_name: str) -> str:
    """The Primary Active Manager (`model.tenure.PamRecord`)."""
    return PAMS + dag_name


def progress(database_name: str) -> str:
    """A floor under the acknowledged LSN (`model.database.Progress`)."""
    return PROGRESS + database_name


def status(server_name: str) -> str:
    """What a server's agent says of its copies, once a second (list of `model.database.CopyStatus`)."""
    return STATUS + server_name


def token(digest: str) -> str:
    """A one-time token for joining, by the SHA-256 of its secret."""
    return TOKENS + digest


def event(server_name: str, slot: int) -> str:
    """A slot of a server's ring in the journal (`monitoring.catalogue.Event`)."""
    return f"{JOURNAL}{server_name}/{slot:04d}"


def client_access_array(name: str) -> str:
    """An array as configured (`model.array.ClientAccessArray`)."""
    return CLIENT_ACCESS_ARRAYS + name


def array_site(site: str) -> str:
    """Which array a site has: the guard that it has only one."""
    return f"{CONFIG}array-site/{site.lower()}"


def array_holder(array: str) -> str:
    """Who holds the array's address (`model.array.HolderRecord`)."""
    return f"{ARRAYS}{array}/holder"


def array_beat(array: str) -> str:
    """Renewed by the holder (`model.array.Beat`)."""
    return f"{ARRAYS}{array}/beat"


def array_order(array: str) -> str:
    """An administrator's move (`model.array.MoveOrder`)."""
    return f"{ARRAYS}{array}/order"


def array_statement(array: str, server_name: str) -> str:
    """What a possible holder says of itself (`model.array.Statement`)."""
    return f"{ARRAYS}{array}/server/{server_name}"


def dns_zone(zone: str) -> str:
    """A zone whose records are kept (`model.dns.DnsZone`)."""
    return DNS_ZONES + zone
