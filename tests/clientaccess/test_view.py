"""Message numbers as the client knows them, whatever happens in the folder and whenever it may be told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.clientaccess.contents import MOST_BYTES, Contents
from everpost.clientaccess.view import Diverged, FolderView
from everpost.model.recipient import MailboxRef
from everpost.store.interface import Folder, FolderChanges, FolderSnapshot, MessageData, MessageState, Part
from everpost.wire.imap.grammar import STAR, BadSyntax

NONE: frozenset[str] = frozenset()


def folder(exists: int, modseq: int, uid_validity: int = 1) -> Folder:
    return Folder(id=1, name="x", uid_validity=uid_validity, uid_next=99, highest_modseq=modseq, exists=exists)


class Truth:
    """The folder in the store."""

    def __init__(self) -> None:
        self.modseq = 1
        self.uid_next = 1
        self.mails: dict[int, MessageState] = {}
        self.gone: dict[int, int] = {}

    def act(self, action: int) -> None:
        self.modseq += 1
        uids = sorted(self.mails)
        match action % 3:
            case 0:
                self.mails[self.uid_next] = MessageState(self.uid_next, self.modseq, NONE)
                self.uid_next += 1
            case 1 if uids:
                uid = uids[action % len(uids)]
                self.mails[uid] = MessageState(uid, self.modseq, frozenset({f"k{action}"}))
            case 2 if uids:
                uid = uids[action % len(uids)]
                del self.mails[uid]
                self.gone[uid] = self.modseq

    def changes(self, since: int) -> FolderChanges:
        return FolderChanges(
            folder=folder(len(self.mails), self.modseq),
            messages=[self.mails[uid] for uid in sorted(self.mails) if self.mails[uid].modseq > since],
            vanished=sorted(uid for uid, modseq in self.gone.items() if modseq > since),
        )

    def snapshot(self) -> FolderSnapshot:
        return FolderSnapshot(
            folder=folder(len(self.mails), self.modseq), messages=[self.mails[uid] for uid in sorted(self.mails)]
        )


class Client:
    """What a client makes of the answers."""

    def __init__(self, view: FolderView) -> None:
        self.uids = list(view.uids)

    def hear(self, view: FolderView, expunged: list[int], exists: int | None) -> None:
        for number in sorted(expunged, reverse=True):
            del self.uids[number - 1]
        if exists is not None:
            assert exists >= len(self.uids)
            self.uids += list(view.uids[len(self.uids) : exists])
        assert self.uids == list(view.uids)


ACTIONS = st.lists(st.one_of(st.integers(0, 50), st.sampled_from(["sync", "quiet"])), max_size=60)


@given(ACTIONS)
def test_the_client_always_counts_as_the_server_does(actions: list[int | str]) -> None:
    truth = Truth()
    for _ in range(5):
        truth.act(0)
    view = FolderView(truth.snapshot(), read_only=False)
    client = Client(view)
    for action in [*actions, "sync"]:
        if isinstance(action, int):
            truth.act(action)
            continue
        changes = truth.changes(view.highest_modseq)
        before = len(view)
        update = view.apply(changes, expunge=action == "sync")
        assert action == "sync" or not update.expunged
        assert action == "sync" or len(view) >= before
        client.hear(view, update.expunged, update.exists)
        assert view.agrees(changes.folder)
    assert list(view.uids) == sorted(truth.mails)
    assert [(view.modseqs[at], view.flags[at]) for at in range(len(view))] == [
        (truth.mails[uid].modseq, truth.mails[uid].flags) for uid in sorted(truth.mails)
    ]


def test_a_lossy_activation_is_noticed_and_made_good() -> None:
    truth = Truth()
    for _ in range(40):
        truth.act(0)
    view = FolderView(truth.snapshot(), read_only=False)
    for uid in range(11, 41):
        del truth.mails[uid]
    truth.uid_next += 1_000_000
    truth.act(0)
    changes = truth.changes(view.highest_modseq)
    view.apply(changes, expunge=True)
    assert not view.agrees(changes.folder)
    update = view.apply(view.difference(truth.snapshot()), expunge=True)
    assert update.expunged == list(range(11, 41))
    assert list(view.uids) == sorted(truth.mails)


def test_what_cannot_be_told_ends_the_session() -> None:
    truth = Truth()
    truth.act(0)
    view = FolderView(truth.snapshot(), read_only=False)
    with pytest.raises(Diverged):
        view.apply(FolderChanges(folder=folder(1, 5, uid_validity=2), messages=[], vanished=[]), expunge=True)
    view = FolderView(FolderSnapshot(folder=folder(1, 1), messages=[MessageState(5, 1, NONE)]), read_only=False)
    with pytest.raises(Diverged):
        late = MessageState(3, 9, NONE)
        view.apply(FolderChanges(folder=folder(2, 9), messages=[late], vanished=[]), expunge=True)


def sets(uids: list[int]) -> FolderView:
    return FolderView(
        FolderSnapshot(folder=folder(len(uids), 1), messages=[MessageState(uid, 1, NONE) for uid in uids]),
        read_only=False,
    )


def test_sets_of_numbers() -> None:
    view = sets([2, 4, 6, 8])
    assert view.select([(1, 2), (2, 3)], by_uid=False) == [0, 1, 2]
    assert view.select([(STAR, STAR)], by_uid=False) == [3]
    assert view.select([(3, STAR)], by_uid=False) == [2, 3]
    assert view.select([(9, STAR)], by_uid=False) == [3]  # the range ends at the last message
    assert view.select([(3, 2)], by_uid=False) == [1, 2]
    with pytest.raises(BadSyntax):
        view.select([(1, 5)], by_uid=False)
    assert view.select([(3, 7), (1, 1)], by_uid=True) == [1, 2]
    assert view.select([(100, STAR)], by_uid=True) == [3]
    assert view.select([(9, 4_294_967_295_000)], by_uid=True) == []
    assert sets([]).select([(1, STAR)], by_uid=False) == []
    assert sets([]).select([(1, STAR)], by_uid=True) == []


def test_contents_are_bounded() -> None:
    contents, box = Contents(), MailboxRef("MB01", "g")
    quarter = b"x" * (MOST_BYTES // 4)
    for uid in range(1, 6):
        contents.keep(box, 1, MessageData(uid=uid, raw=quarter), Part.RAW)
    assert contents.get(box, 1, 1, Part.RAW) is None
    assert contents.get(box, 1, 5, Part.RAW) is not None
    assert contents.get(box, 1, 5, Part.RAW | Part.STRUCTURE) is None
    assert contents.get(MailboxRef("MB01", "h"), 1, 5, Part.RAW) is None
