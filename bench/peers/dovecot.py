"""Two Debian Dovecot 2.3 with the replicator (notify and replication plugins, dsync over TCP between doveadm servers).

The packages dovecot-core, dovecot-imapd and dovecot-lmtpd come from Debian (`scripts/packages loss`; licences: MIT and
LGPL-2.1). The distribution's service stays off; these two run from folders and namespaces of their own, as the lab's
user. Replication was removed from Dovecot in 2.4.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from everpost.errors import EverpostError
from everpost.lab.hosts import USER, NamespaceHost, NamespaceLab, Process
from everpost.lab.organisation import CommandFailed

from .contest import wait
from .mailpeers import PASSWORD, MailPeer, kill_everything
from .pair import Say

PACKAGES = Path(__file__).resolve().parents[2] / "scripts" / "packages"
IMAP, LMTP, DOVEADM = 1143, 2424, 12345
LEVEL = 120.0
IN_FLIGHT = 3.0
"""Seconds for what had reached the second server when the first died."""

_CONFIG = """\
protocols = imap lmtp
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/dovecot.log
listen = {address}
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
default_internal_user = {user}
default_internal_group = {user}
default_login_user = {user}
mail_location = sdbox:~/mail
mail_uid = {user}
mail_gid = {user}
first_valid_uid = 1
first_valid_gid = 1
mail_plugins = notify replication
lmtp_save_to_detail_mailbox = no
doveadm_port = {doveadm}
doveadm_password = {password}
replication_max_conns = 10
plugin {{
  mail_replica = tcp:{other}:{doveadm}
{more}}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {root}/users
}}
userdb {{
  driver = passwd-file
  args = {root}/users
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  process_min_avail = 4
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service doveadm {{
  inet_listener {{
    port = {doveadm}
  }}
}}
service replicator {{
  process_min_avail = 1
  unix_listener replicator-doveadm {{
    mode = 0600
    user = {user}
  }}
}}
service aggregator {{
  chroot =
  fifo_listener replication-notify-fifo {{
    user = {user}
  }}
  unix_listener replication-notify {{
    user = {user}
  }}
}}
"""


def install(say: Say) -> str:
    """The packages, on first use; the version. Raises EverpostError when this Debian has another Dovecot."""
    if not Path("/usr/lib/dovecot/lmtp").exists() or not Path("/usr/lib/dovecot/imap").exists():
        say("installing Debian's dovecot-core, dovecot-imapd and dovecot-lmtpd; no daemon of theirs is left running")
    subprocess.run([str(PACKAGES), "loss"], check=True, stdout=sys.stderr)
    version = subprocess.run(["dovecot", "--version"], check=True, capture_output=True, text=True).stdout.split()[0]
    if not version.startswith("2.3."):
        raise EverpostError(
            f"Dovecot {version} has no replicator.", remedy="Run this on Debian 12, whose Dovecot is 2.3."
        )
    return version


class Dovecot(MailPeer):
    """DC01 and DC02. `sync_timeout` seconds that a delivery waits for its replication (replication_sync_timeout);
    0: it does not, which is the preset."""

    def __init__(self, lab: NamespaceLab, say: Say, sync_timeout: int = 0) -> None:
        super().__init__(lab, say)
        self._version = install(say)
        self._sync_timeout = sync_timeout
        self.name = "Dovecot" if not sync_timeout else f"Dovecot, replication_sync_timeout={sync_timeout}"
        self._hosts = lab.host("DC01", 11), lab.host("DC02", 12)
        self._running: dict[str, Process] = {}
        self._users: list[str] = []

    @property
    def hosts(self) -> tuple[NamespaceHost, NamespaceHost]:
        """The two servers."""
        return self._hosts

    @property
    def deliver(self) -> str:
        """LMTP, as a mail transfer agent delivers to Dovecot."""
        return f"lmtp:{self._hosts[0].address}:{LMTP}"

    def imap(self, host: NamespaceHost) -> str:
        """Without TLS."""
        return f"{host.address}:{IMAP}"

    def build(self) -> None:
        """Both servers."""
        for host, other in (self._hosts, self._hosts[::-1]):
            (host.root / "users").touch()
            more = f"  replication_sync_timeout = {self._sync_timeout}\n" if self._sync_timeout else ""
            text = _CONFIG.format(
                root=host.root, address=host.address, other=other.address, user=USER, password=PASSWORD,
                imap=IMAP, lmtp=LMTP, doveadm=DOVEADM, more=more,
            )  # fmt: skip
            self._config(host).write_text(text)
            self._start(host)

    @staticmethod
    def _config(host: NamespaceHost) -> Path:
        return host.root / "dovecot.conf"

    def _start(self, host: NamespaceHost) -> None:
        for leftover in (host.root / "run").glob("master.pid"):
            leftover.unlink()
        argv = ["/usr/sbin/dovecot", "-F", "-c", str(self._config(host))]
        self._running[host.name] = host.spawn(argv, host.root / "out.log")
        socket = host.root / "run" / "auth-userdb"
        wait(socket.exists, 20, f"{host.name}: Dovecot")

    def _doveadm(self, host: NamespaceHost, *arguments: str) -> str:
        argv = ["ip", "netns", "exec", host.space, "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        argv += ["doveadm", "-c", str(self._config(host)), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, cwd="/").stdout

    def mailboxes(self, users: list[str]) -> None:
        """In the user file of both; `doveadm replicator add` tells the replicators."""
        for host in self._hosts:
            with (host.root / "users").open("a") as file:
                file.writelines(f"{user}:{PASSWORD}::::{host.root}/home/{user}:\n" for user in users)
        for user in users:
            self._doveadm(self._hosts[0], "mailbox", "create", "-u", user, "Sent")
            for host in self._hosts:
                self._doveadm(host, "replicator", "add", user)
        self._users = users

    def ready(self) -> None:
        """Until no synchronisation of the newest mailboxes waits or runs on either, and none failed: a replicator
        leaves a user whose synchronisation failed alone for five minutes."""
        try:
            wait(lambda: all(self._idle(host) for host in self._hosts), LEVEL, "both Dovecots are level")
        except CommandFailed as error:
            said = [self._doveadm(host, "replicator", "status", *more) for host in self._hosts for more in ([], ["*"])]
            raise CommandFailed("\n".join([str(error), *said])) from None

    def _idle(self, host: NamespaceHost) -> bool:
        queued = [line for line in self._doveadm(host, "replicator", "status").splitlines() if "Queued" in line]
        if any(int(line.split()[-1]) for line in queued):
            return False
        rows = self._doveadm(host, "replicator", "status", "*").splitlines()[1:]
        failed = [words[0] for words in map(str.split, rows) if words[-1] == "y" and words[0] in self._users]
        for user in failed:
            self._doveadm(host, "replicator", "remove", user)
            self._doveadm(host, "replicator", "add", user)
        return not failed

    def serves(self) -> None:
        """It serves all the time; what was on its way when the first died is taken in. Raises CommandFailed when a
        setting was refused: Dovecot notes that in its log only and goes on without it."""
        time.sleep(IN_FLIGHT)
        for host in self._hosts:
            for line in (host.root / "dovecot.log").read_text(errors="replace").splitlines():
                if "Error" in line and "Invalid" in line:
                    raise CommandFailed(f"{host.name} runs without a setting that it was given: {line}")

    def crashes(self) -> int:
        """A process that panics is killed by its own signal 6; a replicator that does begins its queue anew."""
        logs = [(host.root / "dovecot.log").read_text(errors="replace") for host in self._hosts]
        return sum("killed with signal" in line for log in logs for line in log.splitlines())

    def start_first(self) -> None:
        """Its Dovecot again; the mailboxes are then synchronised at once, not when a replicator would."""
        kill_everything(self._hosts[0])
        self._start(self._hosts[0])
        for user in self._users:
            wait(lambda user=user: self._synchronised(user), LEVEL, f"{user} is synchronised")

    def _synchronised(self, user: str) -> bool:
        try:
            self._doveadm(self._hosts[0], "sync", "-u", user, "-d")
        except subprocess.CalledProcessError:
            return False  # a replicator's own one holds the lock
        return True

    def settings(self) -> dict[str, Any]:
        """What was set, and the version."""
        return {
            "version": self._version,
            "licence": "MIT and LGPL-2.1",
            "settings": f"sdbox, replication_max_conns 10, replication_sync_timeout {self._sync_timeout}",
            "delivery": "LMTP",
        }

    def close(self) -> None:
        """End and remove everything."""
        for process in self._running.values():
            process.terminate(5.0)
        self.lab.close()
        if not os.environ.get("EVERPOST_KEEP_FILES"):
            shutil.rmtree(self.lab.root, ignore_errors=True)
