"""What is read from the store's tables, and how rows become values."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from everpost.store.interface import Folder, MessageData, MessageState, Part

_FOLDER = """f.id, f.name, f.uid_validity, f.uid_next, f.modseq as highest_modseq, f.messages as exists, f.unseen,
       f.deleted, f.size, f.special_use, f.selectable,
       exists (select 1 from everpost_mail.subscription s where s.mailbox = f.mailbox and s.name = f.name) as subscribed
"""

FOLDERS = f'select {_FOLDER} from everpost_mail.folder f where f.mailbox = $1 order by f.name collate "C"'
FOLDER = f"select {_FOLDER} from everpost_mail.folder f where f.mailbox = $1 and f.name = $2"
FOLDER_BY_ID = f"select {_FOLDER} from everpost_mail.folder f where f.mailbox = $1 and f.id = $2 and f.selectable"
SUBSCRIPTIONS = 'select name from everpost_mail.subscription where mailbox = $1 order by name collate "C"'

CHANGES = f"""
select {_FOLDER}, m.*, v.*
  from everpost_mail.folder f,
       lateral (select array_agg(uid) as uids, array_agg(modseq) as modseqs, array_agg(flags) as flag_lists
                  from (select uid, modseq, array_to_string(flags, ' ') as flags from everpost_mail.message
                         where folder_id = f.id and modseq > $3 order by uid) o) m,
       lateral (select array_agg(uid order by uid) as vanished
                  from everpost_mail.vanished where folder_id = f.id and modseq > $3) v
 where f.mailbox = $1 and f.id = $2 and f.selectable
"""
"""The folder and what changed since a MODSEQ, in one statement, so as of one moment. Three arrays, not a row per
message: a tenth of the time for a large folder."""

SIZES = "select uid, size from everpost_mail.message where folder_id = $1 and uid = any($2) order by uid"

_COLUMNS = {
    Part.DATE: "m.internal_date",
    Part.SIZE: "m.size",
    Part.ENVELOPE: "c.envelope",
    Part.BODYSTRUCTURE: "c.bodystructure",
    Part.BODY: "c.body",
    Part.STRUCTURE: "c.structure",
    Part.HEADER: "c.header",
}
_REST = "(select string_agg(k.data, ''::bytea order by k.n) from everpost_mail.chunk k where k.content_id = c.id)"
_OF_MESSAGE = Part.FLAGS | Part.DATE | Part.SIZE


def fetch_sql(parts: Part) -> str:
    """A query for these parts of messages: $1 mailbox, $2 folder, $3 UIDs. Tables that are not needed are left out."""
    wanted = ["m.uid", "m.modseq", "array_to_string(m.flags, ' ') as flags"]
    wanted += [column for part, column in _COLUMNS.items() if part in parts]
    if Part.RAW in parts:
        wanted.append(f"c.header as head, {_REST} as rest")
    content = "" if parts in _OF_MESSAGE else "join everpost_mail.content c on c.id = m.content_id"
    return (
        f"select {', '.join(wanted)} from everpost_mail.message m {content}"
        " where m.folder_id = $2 and m.uid = any($3)"
        " and exists (select 1 from everpost_mail.folder f where f.id = $2 and f.mailbox = $1) order by m.uid"
    )


class _FlagSets(dict[str, frozenset[str]]):
    """A mailbox has few different sets of flags: each is made once."""

    def __missing__(self, text: str) -> frozenset[str]:
        made = self[text] = frozenset(text.split())
        return made


def folder(row: asyncpg.Record) -> Folder:
    """A row of FOLDERS, FOLDER or CHANGES."""
    return Folder(**{name: row[name] for name in Folder.__struct_fields__})


def states(row: asyncpg.Record) -> list[MessageState]:
    """The messages in a row of CHANGES."""
    if row["uids"] is None:
        return []
    flag_sets = _FlagSets()
    return list(map(MessageState, row["uids"], row["modseqs"], map(flag_sets.__getitem__, row["flag_lists"])))


def messages(rows: Sequence[asyncpg.Record], parts: Part) -> list[MessageData]:
    """Rows of `fetch_sql(parts)`."""
    flag_sets = _FlagSets()
    found = []
    for row in rows:
        fields = dict(row)
        fields["flags"] = flag_sets[fields["flags"]]
        if Part.RAW in parts:
            fields["raw"] = fields.pop("head") + (fields.pop("rest") or b"")
        found.append(MessageData(**fields))
    return found
