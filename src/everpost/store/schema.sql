-- Mailboxes in SQL. Every change is one function call, so one statement, one transaction, one round trip: the operation
-- id is looked up, the change made and its answer stored together (architecture 3.10). UIDs and MODSEQs come from the
-- folder's row under its lock, never from a sequence: what commits later is never below what committed earlier (3.9).
--
-- Locks are taken in one order, so nothing deadlocks: mailbox, folders by id, operation, contents by id.
-- There are no foreign keys: these functions are the only writers, they hold the folder's lock, and a key check costs
-- a lookup and a lock per message. Errors have codes of their own: EP001 no such folder, EP002 a folder of that name
-- exists, EP003 refused for the reason in the message.

create schema if not exists everpost_mail;

create table if not exists everpost_mail.mailbox (
    guid uuid primary key,
    last_uid_validity bigint not null
);

-- The counts are exact at `modseq`. Half of each page is free, so that a new version of a row finds room beside it.
create table if not exists everpost_mail.folder (
    id bigint generated always as identity primary key,
    mailbox uuid not null,
    name text not null,
    uid_validity bigint not null,
    uid_next bigint not null default 1,
    modseq bigint not null,
    messages bigint not null default 0,
    unseen bigint not null default 0,
    deleted bigint not null default 0,
    size bigint not null default 0,
    special_use text not null default '',
    selectable boolean not null default true,
    unique (mailbox, name)
) with (fillfactor = 50);

-- Where a folder's UIDs stood when it was first added to in a stretch of time in which this copy was the only one that
-- had them (`everpost_mail.resilience`): 3.4 gives it no more than a million there.
alter table everpost_mail.folder add column if not exists single_in bigint;
alter table everpost_mail.folder add column if not exists single_from bigint;

-- One row: counts how often it was certain that no copy lacks anything; the stretches between are those of `single_in`.
create table if not exists everpost_mail.resilience (covered bigint not null);

-- What a message is, shared by its copies: the header, and what was computed from the bytes when it came. Rows up to a
-- page are kept whole: out-of-line storage of a 2 KB header costs more than it saves.
create table if not exists everpost_mail.content (
    id bigint generated always as identity primary key,
    header bytea not null,
    envelope bytea not null,
    body bytea not null,
    bodystructure bytea not null,
    structure bytea not null
) with (toast_tuple_target = 8160);
alter table everpost_mail.content alter column header set storage external;

-- What follows the header, in pieces: the message is the header and the pieces in order, byte for byte.
create table if not exists everpost_mail.chunk (
    content_id bigint not null,
    n integer not null,
    data bytea not null,
    primary key (content_id, n)
) with (toast_tuple_target = 4080);

-- Compressed by lz4 where the server has it: text takes 0.55 of the log and so of what crosses to the copies, base64
-- takes 1.0, and neither costs measurable time (10 KB messages). By pglz never: it takes more time than it saves.
do $$ begin
    alter table everpost_mail.chunk alter column data set compression lz4;
    alter table everpost_mail.chunk alter column data set storage extended;
exception when feature_not_supported then
    alter table everpost_mail.chunk alter column data set storage external;
end $$;

create table if not exists everpost_mail.message (
    folder_id bigint not null,
    uid bigint not null,
    modseq bigint not null,
    content_id bigint not null,
    size bigint not null,
    internal_date timestamptz not null,
    flags text[] not null,
    primary key (folder_id, uid)
);
create index if not exists message_modseq on everpost_mail.message (folder_id, modseq);
create index if not exists message_content on everpost_mail.message (content_id);

-- UIDs that are gone, for sessions that must be told.
create table if not exists everpost_mail.vanished (
    folder_id bigint not null,
    uid bigint not null,
    modseq bigint not null,
    primary key (folder_id, uid)
);
create index if not exists vanished_modseq on everpost_mail.vanished (folder_id, modseq);

create table if not exists everpost_mail.subscription (
    mailbox uuid not null,
    name text not null,
    primary key (mailbox, name)
);

create table if not exists everpost_mail.operation (
    id text primary key,
    answer jsonb not null,
    at timestamptz not null default now(),
    repeated integer not null default 0
);
create index if not exists operation_at on everpost_mail.operation (at);

-- When the daily work was done last: one row, or none before the first time.
create table if not exists everpost_mail.upkept (at timestamptz not null);
