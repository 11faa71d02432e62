"""The load's messages: always the same bytes for a number, lines as SMTP wants them, the user's own mail."""

from __future__ import annotations

import mailbox
from pathlib import Path

import pytest

from everpost.lab.load.own import own_messages
from everpost.lab.load.shapes import message
from everpost.wire.mime import summarize


@pytest.mark.parametrize("number", range(60))
def test_shapes_are_repeatable_and_clean(number: int) -> None:
    raw = message(number, "id-1")
    assert raw == message(number, "id-1")
    assert raw.startswith(b"X-Ledger-Id: id-1\r\n")
    assert raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r")
    assert b"\0" not in raw
    assert summarize(raw).size == len(raw)


def test_own_mail_from_mbox_maildir_and_folder(tmp_path: Path) -> None:
    box = mailbox.mbox(str(tmp_path / "box"))
    box.add(b"Subject: one\n\nbody\n")
    box.flush()
    assert own_messages(str(tmp_path / "box")) == [b"Subject: one\r\n\r\nbody\r\n"]
    made = mailbox.Maildir(str(tmp_path / "dir"))
    made.add(b"Subject: two\n\nbody\n")
    assert len(own_messages(str(tmp_path / "dir"))) == 1
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.eml").write_bytes(b"Subject: three\r\n\r\nx")
    assert own_messages(str(tmp_path / "files")) == [b"Subject: three\r\n\r\nx\r\n"]
    with pytest.raises(ValueError, match="no mail"):
        own_messages(str(tmp_path / "nothing"))
