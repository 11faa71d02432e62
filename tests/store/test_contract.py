"""What every store does: one suite for the one in memory and the one on PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import UTC, datetime

import pytest

from everpost.errors import Refused
from everpost.model.recipient import MailboxRef
from everpost.store.interface import (
    Append,
    Delivery,
    FlagMode,
    FolderExists,
    MessageData,
    NoSuchFolder,
    Part,
    Store,
    first_folders,
)
from everpost.wire.mime import summarize
from tests import corpus

CORPUS = corpus.messages()  # while still root: the checkout may be where the servers' user may not read

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAW = b"From: a@example.org\r\nSubject: hi\r\n\r\nbody \xff\x00 bytes\r\n"
SEEN = frozenset({"\\Seen"})
DELETED = frozenset({"\\Deleted"})
EVERYTHING = ~Part(0)


def op() -> str:
    return str(uuid.uuid4())


async def fetched(store: Store, box: MailboxRef, name: str, parts: Part = Part.RAW) -> dict[int, MessageData]:
    """All messages of a folder by UID."""
    folder = await store.get_folder(box, name)
    uids = [state.uid for state in (await store.snapshot(box, folder.id)).messages]
    found = {}
    async for batch in store.fetch(box, folder.id, uids, parts):
        found.update({data.uid: data for data in batch})
    return found


async def flags_of(store: Store, box: MailboxRef, name: str) -> dict[int, set[str]]:
    folder = await store.get_folder(box, name)
    return {state.uid: set(state.flags) for state in (await store.snapshot(box, folder.id)).messages}


async def deliver(store: Store, box: MailboxRef, count: int = 1, raw: bytes = RAW) -> None:
    await store.deliver([Delivery(mailbox=box, operation_id=op(), raw=raw) for _ in range(count)])


# -- folders ------------------------------------------------------------------------------------------------------


async def test_a_new_mailbox_has_its_folders(any_store: Store, box: MailboxRef) -> None:
    folders = await any_store.list_folders(box)
    assert [(folder.name, folder.special_use) for folder in folders] == sorted(first_folders())
    assert all(folder.subscribed and folder.selectable and folder.uid_next == 1 for folder in folders)
    assert all(folder.highest_modseq >= 1 << 40 for folder in folders)
    assert await any_store.list_subscriptions(box) == sorted(name for name, _ in first_folders())


async def test_any_first_operation_makes_the_mailbox(any_store: Store) -> None:
    async def new() -> MailboxRef:
        return MailboxRef("MB01", str(uuid.uuid4()))

    assert (await any_store.get_folder(await new(), "Sent")).special_use == "\\Sent"
    assert await any_store.list_subscriptions(await new())
    await any_store.append(await new(), "Drafts", [Append(raw=RAW)], op=op())
    await any_store.create_folder(await new(), "Work", op=op())
    await any_store.delete_folder(await new(), "Junk", op=op())
    await any_store.rename_folder(await new(), "Junk", "Spam", op=op())
    box = await new()
    await any_store.subscribe(box, "Elsewhere", True, op=op())
    assert "Elsewhere" in await any_store.list_subscriptions(box)
    assert "INBOX" in await any_store.list_subscriptions(box)


async def test_folders_have_parents_and_are_ordered_by_name(any_store: Store, box: MailboxRef) -> None:
    made = await any_store.create_folder(box, "Work/2026/März", op=op(), special_use="\\Flagged")
    assert (made.name, made.special_use, made.exists) == ("Work/2026/März", "\\Flagged", 0)
    names = [folder.name for folder in await any_store.list_folders(box)]
    assert names == sorted(names)
    assert {"Work", "Work/2026", "Work/2026/März"} <= set(names)
    with pytest.raises(FolderExists):
        await any_store.create_folder(box, "Work/2026", op=op())
    with pytest.raises(NoSuchFolder):
        await any_store.get_folder(box, "Work/2027")


async def test_a_deleted_folder_with_children_stays_as_a_name(any_store: Store, box: MailboxRef) -> None:
    await any_store.create_folder(box, "A/B", op=op())
    await any_store.append(box, "A", [Append(raw=RAW)], op=op())
    before = await any_store.get_folder(box, "A")
    await any_store.delete_folder(box, "A", op=op())
    after = await any_store.get_folder(box, "A")
    assert (after.selectable, after.exists, after.size) == (False, 0, 0)
    with pytest.raises(NoSuchFolder):
        await any_store.snapshot(box, after.id)
    with pytest.raises(NoSuchFolder):
        await any_store.append(box, "A", [Append(raw=RAW)], op=op())
    with pytest.raises(Refused):
        await any_store.delete_folder(box, "A", op=op())
    again = await any_store.create_folder(box, "A", op=op())
    assert again.selectable
    assert again.uid_validity > before.uid_validity
    await any_store.delete_folder(box, "A", op=op())
    await any_store.delete_folder(box, "A/B", op=op())
    await any_store.delete_folder(box, "A", op=op())
    with pytest.raises(NoSuchFolder):
        await any_store.get_folder(box, "A")


async def test_a_folder_made_again_has_a_higher_uid_validity(any_store: Store, box: MailboxRef) -> None:
    first = await any_store.create_folder(box, "Again", op=op())
    await any_store.delete_folder(box, "Again", op=op())
    with pytest.raises(NoSuchFolder):
        await any_store.changes(box, first.id, 0)
    second = await any_store.create_folder(box, "Again", op=op())
    assert second.uid_validity > first.uid_validity
    assert second.id != first.id


async def test_what_cannot_be_deleted_or_renamed(any_store: Store, box: MailboxRef) -> None:
    with pytest.raises(Refused):
        await any_store.delete_folder(box, "INBOX", op=op())
    with pytest.raises(NoSuchFolder):
        await any_store.delete_folder(box, "Nothing", op=op())
    with pytest.raises(NoSuchFolder):
        await any_store.rename_folder(box, "Nothing", "Something", op=op())
    with pytest.raises(FolderExists):
        await any_store.rename_folder(box, "Sent", "Trash", op=op())
    with pytest.raises(Refused):
        await any_store.rename_folder(box, "Sent", "Sent/Old", op=op())


async def test_rename_keeps_identity_and_takes_the_children_along(any_store: Store, box: MailboxRef) -> None:
    await any_store.create_folder(box, "Work/2026/May", op=op())
    await any_store.create_folder(box, "Workshop", op=op())
    await any_store.append(box, "Work/2026/May", [Append(raw=RAW)], op=op())
    before = await any_store.get_folder(box, "Work/2026/May")
    await any_store.rename_folder(box, "Work", "Old/Job", op=op())
    after = await any_store.get_folder(box, "Old/Job/2026/May")
    assert (after.id, after.uid_validity, after.exists) == (before.id, before.uid_validity, 1)
    names = {folder.name for folder in await any_store.list_folders(box)}
    assert {"Old", "Old/Job", "Old/Job/2026", "Workshop"} <= names
    assert "Work" not in names


async def test_renaming_inbox_moves_its_messages(any_store: Store, box: MailboxRef) -> None:
    await any_store.create_folder(box, "INBOX/Child", op=op())
    await deliver(any_store, box, 3)
    inbox = await any_store.get_folder(box, "INBOX")
    await any_store.rename_folder(box, "INBOX", "Old/Mail", op=op())
    assert (await any_store.get_folder(box, "Old/Mail")).exists == 3
    assert len(await fetched(any_store, box, "Old/Mail")) == 3
    after = await any_store.get_folder(box, "INBOX")
    assert (after.id, after.exists, after.uid_next) == (inbox.id, 0, 4)
    assert await any_store.get_folder(box, "INBOX/Child")


async def test_subscriptions_are_names_that_need_not_exist(any_store: Store, box: MailboxRef) -> None:
    await any_store.subscribe(box, "News", True, op=op())
    await any_store.subscribe(box, "News", True, op=op())
    assert "News" in await any_store.list_subscriptions(box)
    await any_store.create_folder(box, "News", op=op())
    assert (await any_store.get_folder(box, "News")).subscribed
    await any_store.delete_folder(box, "News", op=op())
    assert "News" in await any_store.list_subscriptions(box)
    await any_store.subscribe(box, "News", False, op=op())
    assert "News" not in await any_store.list_subscriptions(box)


async def test_mailboxes_do_not_see_each_other(any_store: Store, box: MailboxRef) -> None:
    other = MailboxRef("MB01", str(uuid.uuid4()))
    await deliver(any_store, box)
    inbox = await any_store.get_folder(box, "INBOX")
    with pytest.raises(NoSuchFolder):
        await any_store.snapshot(other, inbox.id)
    with pytest.raises(NoSuchFolder):
        await any_store.store_flags(other, inbox.id, [1], FlagMode.ADD, SEEN, op=op())
    with pytest.raises(NoSuchFolder):
        await any_store.expunge(other, inbox.id, None, op=op())
    with pytest.raises(NoSuchFolder):
        await any_store.copy(other, inbox.id, [1], "INBOX", op=op())
    assert [batch async for batch in any_store.fetch(other, inbox.id, [1], Part.RAW)] == []


# -- messages -----------------------------------------------------------------------------------------------------


async def test_append_counts_and_keeps_everything(any_store: Store, box: MailboxRef) -> None:
    when = datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)
    flags = frozenset({"\\Seen", "\\Deleted", "$Forwarded"})
    added = await any_store.append(
        box, "Sent", [Append(raw=RAW), Append(raw=b"", flags=flags, internal_date=when)], op=op()
    )
    sent = await any_store.get_folder(box, "Sent")
    assert (list(added.uids), added.uid_validity) == ([1, 2], sent.uid_validity)
    assert (sent.exists, sent.unseen, sent.deleted, sent.size, sent.uid_next) == (2, 1, 1, len(RAW), 3)
    found = await fetched(any_store, box, "Sent", EVERYTHING)
    assert found[2].internal_date == when
    assert found[2].flags == flags
    assert (found[1].raw, found[2].raw) == (RAW, b"")
    now = found[1].internal_date
    assert now is not None
    assert abs((datetime.now(UTC) - now).total_seconds()) < 600


async def test_append_to_nowhere_adds_nothing(any_store: Store, box: MailboxRef) -> None:
    with pytest.raises(NoSuchFolder):
        await any_store.append(box, "Nowhere", [Append(raw=RAW)], op=op())


async def test_the_corpus_comes_back_byte_for_byte(any_store: Store, box: MailboxRef) -> None:
    messages = CORPUS
    await any_store.append(box, "Archive", [Append(raw=raw) for raw in messages.values()], op=op())
    await any_store.deliver([Delivery(mailbox=box, operation_id=op(), raw=raw) for raw in messages.values()])
    for name in ("Archive", "INBOX"):
        found = await fetched(any_store, box, name, EVERYTHING)
        for raw, data in zip(messages.values(), found.values(), strict=True):
            summary = summarize(raw)
            assert data.raw == raw
            assert data.size == len(raw)
            assert data.header == raw[: summary.header_size]
            assert (data.envelope, data.body) == (summary.envelope, summary.body)
            assert (data.bodystructure, data.structure) == (summary.bodystructure, summary.structure)


async def test_a_message_of_20_mb_comes_back_byte_for_byte(any_store: Store, box: MailboxRef) -> None:
    raw = corpus.with_attachment(20 * 1024 * 1024)
    await deliver(any_store, box, raw=raw)
    await any_store.append(box, "Sent", [Append(raw=raw), Append(raw=RAW)], op=op())
    assert (await fetched(any_store, box, "INBOX"))[1].raw == raw
    assert [data.raw for data in (await fetched(any_store, box, "Sent")).values()] == [raw, RAW]


async def test_fetch_gives_what_is_asked_in_order_of_uids(any_store: Store, box: MailboxRef) -> None:
    await deliver(any_store, box, 5)
    inbox = await any_store.get_folder(box, "INBOX")
    found = [data async for batch in any_store.fetch(box, inbox.id, [5, 2, 9, 2], Part.SIZE) for data in batch]
    assert [data.uid for data in found] == [2, 5]
    assert found[0].size == len(RAW)
    assert found[0].raw is found[0].envelope is found[0].header is found[0].internal_date is None
    assert [batch async for batch in any_store.fetch(box, inbox.id, [], EVERYTHING)] == []


async def test_flags_are_set_added_removed(any_store: Store, box: MailboxRef) -> None:
    await deliver(any_store, box, 3)
    inbox = await any_store.get_folder(box, "INBOX")
    flags = frozenset({"\\Seen", "\\Deleted", "$Junk"})
    changed = await any_store.store_flags(box, inbox.id, [1, 2, 99], FlagMode.REPLACE, flags, op=op())
    assert [(state.uid, state.flags) for state in changed.messages] == [(1, flags), (2, flags)]
    await any_store.store_flags(box, inbox.id, [2, 3], FlagMode.REMOVE, SEEN | {"$Junk"}, op=op())
    await any_store.store_flags(box, inbox.id, [3], FlagMode.ADD, frozenset({"\\Flagged"}), op=op())
    assert await flags_of(any_store, box, "INBOX") == {1: flags, 2: DELETED, 3: {"\\Flagged"}}
    after = await any_store.get_folder(box, "INBOX")
    assert (after.unseen, after.deleted, after.exists) == (2, 2, 3)


async def test_equal_flags_change_nothing(any_store: Store, box: MailboxRef) -> None:
    await deliver(any_store, box, 2)
    inbox = await any_store.get_folder(box, "INBOX")
    first = await any_store.store_flags(box, inbox.id, [1], FlagMode.ADD, SEEN, op=op())
    again = await any_store.store_flags(box, inbox.id, [1], FlagMode.ADD, SEEN, op=op())
    assert again.messages == first.messages
    assert again.highest_modseq == first.highest_modseq
    both = await any_store.store_flags(box, inbox.id, [1, 2], FlagMode.REPLACE, SEEN, op=op())
    assert both.messages[0] == first.messages[0]
    assert both.messages[1].modseq == both.highest_modseq > first.highest_modseq


async def test_unchanged_since_leaves_later_changes_alone(any_store: Store, box: MailboxRef) -> None:
    await deliver(any_store, box, 2)
    inbox = await any_store.get_folder(box, "INBOX")
    await any_store.store_flags(box, inbox.id, [1], FlagMode.ADD, SEEN, op=op())
    changed = await any_store.store_flags(
        box, inbox.id, [1, 2], FlagMode.ADD, DELETED, op=op(), unchanged_since=inbox.highest_modseq
    )
    assert list(changed.modified) == [1]
    assert [state.uid for state in changed.messages] == [2]
    assert await flags_of(any_store, box, "INBOX") == {1: SEEN, 2: DELETED}


async def test_expunge_removes_what_is_deleted(any_store: Store, box: MailboxRef) -> None:
    await deliver(any_store, box, 4)
    inbox = await any_store.get_folder(box, "INBOX")
    await any_store.store_flags(box, inbox.id, [1, 2, 4], FlagMode.ADD, DELETED, op=op())
    some = await any_store.expunge(box, inbox.id, [2, 3], op=op())
    assert list(some.vanished) == [2]
    rest = await any_store.expunge(box, inbox.id, None, op=op())
    assert list(rest.vanished) == [1, 4]
    assert (rest.folder.exists, rest.folder.deleted, rest.folder.size, rest.folder.uid_next) == (1, 0, len(RAW), 5)
    nothing = await any_store.expunge(box, inbox.id, None, op=op())
    assert (list(nothing.vanished), nothing.folder.highest_modseq) == ([], rest.folder.highest_modseq)
    await deliver(any_store, box)
    assert list(await flags_of(any_store, box, "INBOX")) == [3, 5]


async def test_copy_shares_and_keeps_flags_and_date(any_store: Store, box: MailboxRef) -> None:
    when = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    await any_store.append(box, "INBOX", [Append(raw=RAW), Append(raw=b"x", flags=SEEN, internal_date=when)], op=op())
    inbox = await any_store.get_folder(box, "INBOX")
    await any_store.append(box, "Archive", [Append(raw=b"first")], op=op())
    added = await any_store.copy(box, inbox.id, [2, 1, 7], "Archive", op=op())
    archive = await any_store.get_folder(box, "Archive")
    assert (added.uid_validity, list(added.source_uids), list(added.uids)) == (archive.uid_validity, [1, 2], [2, 3])
    assert (archive.exists, archive.unseen, archive.size) == (3, 2, len(RAW) + 6)
    await any_store.store_flags(box, inbox.id, [1, 2], FlagMode.ADD, DELETED, op=op())
    await any_store.expunge(box, inbox.id, None, op=op())
    found = await fetched(any_store, box, "Archive", EVERYTHING)
    assert (found[2].raw, found[3].raw, found[3].flags, found[3].internal_date) == (RAW, b"x", SEEN, when)
    with pytest.raises(NoSuchFolder):
        await any_store.copy(box, inbox.id, [1], "Nowhere", op=op())
    empty = await any_store.copy(box, inbox.id, [1], "Archive", op=op())
    assert (list(empty.uids), list(empty.source_uids)) == ([], [])


async def test_move_removes_and_tells_both_sides(any_store: Store, box: MailboxRef) -> None:
    await deliver(any_store, box, 3)
    inbox = await any_store.get_folder(box, "INBOX")
    trash = await any_store.get_folder(box, "Trash")
    moved = await any_store.copy(box, inbox.id, [1, 3], "Trash", op=op(), move=True)
    assert (list(moved.source_uids), list(moved.uids)) == ([1, 3], [1, 2])
    changes = await any_store.changes(box, inbox.id, inbox.highest_modseq)
    assert (list(changes.vanished), changes.folder.exists) == ([1, 3], 1)
    arrived = await any_store.changes(box, trash.id, trash.highest_modseq)
    assert [state.uid for state in arrived.messages] == [1, 2]
    itself = await any_store.copy(box, inbox.id, [2], "INBOX", op=op(), move=True)
    assert (list(itself.source_uids), list(itself.uids)) == ([2], [4])
    assert list(await flags_of(any_store, box, "INBOX")) == [4]


async def test_changes_since_a_modseq(any_store: Store, box: MailboxRef) -> None:
    await deliver(any_store, box, 3)
    inbox = await any_store.get_folder(box, "INBOX")
    since = inbox.highest_modseq
    quiet = await any_store.changes(box, inbox.id, since)
    assert (list(quiet.messages), list(quiet.vanished), quiet.folder) == ([], [], inbox)
    await any_store.store_flags(box, inbox.id, [1, 2], FlagMode.ADD, DELETED, op=op())
    await any_store.expunge(box, inbox.id, [2], op=op())
    await deliver(any_store, box)
    changes = await any_store.changes(box, inbox.id, since)
    assert [(state.uid, state.flags) for state in changes.messages] == [(1, DELETED), (4, frozenset())]
    assert list(changes.vanished) == [2]
    stamps = [state.modseq for state in changes.messages]
    assert since < stamps[0] < stamps[1] == changes.folder.highest_modseq


async def test_names_that_cannot_be_stored_are_refused(any_store: Store, box: MailboxRef) -> None:
    if type(any_store).__name__ == "MemoryStore":
        return  # a dictionary takes any name; what matters is that PostgreSQL's refusal does not look like a failover
    for name in ("a\0b", "lone \ud800"):
        with pytest.raises(Refused):
            await any_store.create_folder(box, name, op=op())


# -- operation ids ------------------------------------------------------------------------------------------------


async def test_a_repeated_operation_happens_once_and_answers_alike(any_store: Store, box: MailboxRef) -> None:
    ids = [op() for _ in range(6)]
    first = await any_store.append(box, "INBOX", [Append(raw=RAW), Append(raw=RAW)], op=ids[0])
    assert await any_store.append(box, "INBOX", [Append(raw=RAW), Append(raw=RAW)], op=ids[0]) == first
    inbox = await any_store.get_folder(box, "INBOX")
    copied = await any_store.copy(box, inbox.id, [1, 2], "Archive", op=ids[1])
    assert await any_store.copy(box, inbox.id, [1, 2], "Archive", op=ids[1]) == copied
    limit = inbox.highest_modseq - 1
    stored = await any_store.store_flags(box, inbox.id, [1, 2], FlagMode.ADD, DELETED, op=ids[2], unchanged_since=limit)
    assert list(stored.modified) == [2]
    again = await any_store.store_flags(box, inbox.id, [1, 2], FlagMode.ADD, DELETED, op=ids[2], unchanged_since=limit)
    assert again == stored
    gone = await any_store.expunge(box, inbox.id, None, op=ids[3])
    assert (await any_store.expunge(box, inbox.id, None, op=ids[3])).vanished == gone.vanished == [1]
    await any_store.create_folder(box, "Once", op=ids[4])
    assert (await any_store.create_folder(box, "Once", op=ids[4])).name == "Once"
    moved = await any_store.copy(box, inbox.id, [2], "Once", op=ids[5], move=True)
    assert await any_store.copy(box, inbox.id, [2], "Once", op=ids[5], move=True) == moved
    counts = {folder.name: folder.exists for folder in await any_store.list_folders(box)}
    assert (counts["INBOX"], counts["Archive"], counts["Once"]) == (0, 2, 1)


async def test_folder_operations_may_be_repeated(any_store: Store, box: MailboxRef) -> None:
    make, rename, delete, subscribe = (op() for _ in range(4))
    for _ in range(2):
        await any_store.subscribe(box, "One", True, op=subscribe)
    await any_store.create_folder(box, "One", op=make)
    for _ in range(2):
        await any_store.rename_folder(box, "One", "Two", op=rename)
    for _ in range(2):
        await any_store.delete_folder(box, "Two", op=delete)
    await any_store.subscribe(box, "One", False, op=op())
    await any_store.subscribe(box, "One", True, op=subscribe)
    assert "One" not in await any_store.list_subscriptions(box), "a repetition undid what came after it"


async def test_a_delivery_is_known_by_its_id(any_store: Store, box: MailboxRef) -> None:
    other = MailboxRef("MB01", str(uuid.uuid4()))
    one = Delivery(mailbox=box, operation_id=op(), raw=RAW)
    two = Delivery(mailbox=other, operation_id=op(), raw=b"two")
    await any_store.deliver([one, two])
    await any_store.deliver([two, Delivery(mailbox=other, operation_id=op(), raw=b"three"), one])
    await any_store.deliver([one, one])
    await any_store.deliver([])
    assert [data.raw for data in (await fetched(any_store, box, "INBOX")).values()] == [RAW]
    assert [data.raw for data in (await fetched(any_store, other, "INBOX")).values()] == [b"two", b"three"]


async def test_a_refused_operation_leaves_no_trace(any_store: Store, box: MailboxRef) -> None:
    same = op()
    with pytest.raises(NoSuchFolder):
        await any_store.append(box, "Later", [Append(raw=RAW)], op=same)
    await any_store.create_folder(box, "Later", op=op())
    added = await any_store.append(box, "Later", [Append(raw=RAW)], op=same)
    assert list(added.uids) == [1]


# -- many at a time -----------------------------------------------------------------------------------------------


async def test_many_tasks_get_one_uid_each_and_modseqs_grow(any_store: Store, box: MailboxRef) -> None:
    await any_store.list_folders(box)
    appended: list[int] = []
    stamps: list[int] = []

    async def append(number: int) -> None:
        for _ in range(5):
            added = await any_store.append(box, "INBOX", [Append(raw=b"%d" % number)], op=op())
            appended.extend(added.uids)

    async def flag() -> None:
        inbox = await any_store.get_folder(box, "INBOX")
        for number in range(10):
            mode = (FlagMode.ADD, FlagMode.REMOVE)[number % 2]
            changed = await any_store.store_flags(box, inbox.id, list(range(1, 60)), mode, SEEN, op=op())
            stamps.append(changed.highest_modseq)

    async def copy() -> None:
        inbox = await any_store.get_folder(box, "INBOX")
        for _ in range(5):
            await any_store.copy(box, inbox.id, [1, 2], "Archive", op=op())
            archive = await any_store.get_folder(box, "Archive")
            await any_store.copy(box, archive.id, [1], "INBOX", op=op(), move=True)

    await asyncio.gather(
        *(append(number) for number in range(6)), flag(), copy(), copy(), *(deliver(any_store, box) for _ in range(40))
    )
    inbox = await any_store.get_folder(box, "INBOX")
    snapshot = await any_store.snapshot(box, inbox.id)
    uids = [state.uid for state in snapshot.messages]
    assert uids == sorted(set(uids))
    assert max(Counter(appended).values()) == 1
    assert stamps == sorted(stamps)
    assert inbox.exists == len(uids) == inbox.uid_next - 1
    assert inbox.unseen == sum("\\Seen" not in state.flags for state in snapshot.messages)
    assert inbox.highest_modseq >= max(state.modseq for state in snapshot.messages)
    assert len(await fetched(any_store, box, "INBOX")) == len(uids)


async def test_a_watcher_is_woken(any_store: Store, box: MailboxRef) -> None:
    inbox = await any_store.get_folder(box, "INBOX")
    wakes = any_store.wake(box, inbox.id)
    await anext(wakes)  # to begin with
    async with asyncio.timeout(10):
        for change in (
            deliver(any_store, box),
            any_store.append(box, "INBOX", [Append(raw=RAW)], op=op()),
            any_store.store_flags(box, inbox.id, [1, 2], FlagMode.ADD, DELETED, op=op()),
            any_store.copy(box, inbox.id, [1], "Trash", op=op(), move=True),
            any_store.expunge(box, inbox.id, None, op=op()),
        ):
            await change
            await anext(wakes)
    await wakes.aclose()  # type: ignore[attr-defined]
