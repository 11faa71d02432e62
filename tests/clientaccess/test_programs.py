"""Mail programs that people use: mbsync pulls and pushes, mutt opens and saves. Over TLS, as they would."""

from __future__ import annotations

import mailbox
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Serving

RAW = (
    b"From: Bob <bob@contoso.com>\r\nTo: anna@contoso.com\r\nSubject: number %d\r\nMessage-ID: <%d@contoso.com>\r\n"
    b"Date: Mon, 16 Feb 2026 12:00:00 +0000\r\n\r\nline one\r\n.line two \xc3\xa4\r\n"
)


@pytest.fixture
def simple_password(monkeypatch: pytest.MonkeyPatch) -> str:
    """One that needs no quoting in the programs' settings."""
    monkeypatch.setattr("tests.clientaccess.conftest.PASSWORD", "simple")
    return "simple"


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed; `make setup` installs it")
    return found


def wait(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_mbsync_pulls_pushes_and_then_has_nothing_to_do(
    serving: Serving, simple_password: str, certificates: Path, tmp_path: Path
) -> None:
    program = need("mbsync")
    serving.call(serving.store.add, "INBOX", *[RAW % (n, n) for n in range(300)])
    serving.call(serving.store.add, "Sent", RAW % (1000, 1000), flags=frozenset({"\\Seen", "\\Answered"}))
    (tmp_path / "mail").mkdir()
    rc = tmp_path / "mbsyncrc"
    rc.write_text(
        f"IMAPAccount e\nHost localhost\nPort {serving.tls_port}\nUser anna@contoso.com\nPass {simple_password}\n"
        f"SSLType IMAPS\nCertificateFile {certificates / 'ca.crt'}\n\n"
        "IMAPStore far\nAccount e\n\n"
        f"MaildirStore near\nPath {tmp_path}/mail/\nInbox {tmp_path}/mail/INBOX\nSubFolders Verbatim\n\n"
        "Channel c\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nSyncState *\n"
    )

    def sync() -> str:
        done = subprocess.run(
            [program, "-V", "-c", str(rc), "-a"],
            capture_output=True,
            text=True,
            timeout=100,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    sync()
    near = mailbox.Maildir(tmp_path / "mail" / "INBOX", factory=None)
    assert len(near) == 300
    bodies = {path.read_bytes() for folder in ("new", "cur") for path in (tmp_path / "mail/INBOX" / folder).iterdir()}
    wanted = {(RAW % (n, n)).replace(b"\r\n", b"\n") for n in range(300)}
    # What it adds to find messages again is its own.
    shown = {b"\n".join(line for line in body.split(b"\n") if not line.startswith(b"X-TUID")) for body in bodies}
    assert shown == wanted

    before = serving.store.changes_made, serving.store.batches
    sync()
    assert (serving.store.changes_made, serving.store.batches) == before

    near.add(mailbox.MaildirMessage(b"Subject: from here\n\nbody\n"))
    first = next(path for folder in ("cur", "new") for path in sorted((tmp_path / "mail/INBOX" / folder).iterdir()))
    first.rename(tmp_path / "mail/INBOX/cur" / (first.name.split(":")[0] + ":2,FST"))
    sync()
    inbox = serving.store.mails("INBOX")
    assert len(inbox) == 300  # one pushed, one expunged
    assert any(b"from here" in mail.raw for mail in inbox.values())


def test_mutt_reads_tags_and_saves(serving: Serving, simple_password: str, certificates: Path, tmp_path: Path) -> None:
    program = need("mutt")
    serving.call(serving.store.add, "INBOX", *[RAW % (n, n) for n in range(20)])
    rc = tmp_path / "muttrc"
    url = f"imaps://anna%40contoso.com@127.0.0.1:{serving.tls_port}/"
    rc.write_text(
        f'set imap_pass="{simple_password}"\nset ssl_ca_certificates_file="{certificates / "ca.crt"}"\n'
        "set ssl_verify_host=no ssl_usesystemcerts=no\nset quit=yes delete=yes confirmappend=no move=no wait_key=no\n"
        "set ssl_force_tls=yes imap_keepalive=300\nset timeout=1 mail_check=1 confirmcreate=no header_cache=\n"
        f'set spoolfile="{url}INBOX" folder="{url}"\nset sleep_time=0\n'
        'push "<tag-pattern>~s \\"number 1[0-4]\\"<enter><tag-prefix><save-message>=Archive<enter>'
        '<flag-message><sync-mailbox><exit>"\n'
    )
    done = subprocess.run(
        ["script", "-qec", f"{program} -n -F {rc}", "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        env={**os.environ, "TERM": "vt100", "HOME": str(tmp_path)},
    )
    mails = serving.store.mails
    assert done.returncode == 0, done.stdout[-2000:]
    wait(lambda: len(mails("Archive")) == 5 and len(mails("INBOX")) == 15)
    assert any("\\Flagged" in mail.state.flags for mail in mails("INBOX").values())
    moved = {mail.raw for mail in mails("Archive").values()}
    assert moved == {RAW % (n, n) for n in range(10, 15)}
