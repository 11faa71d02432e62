-- Mailboxes in SQL. Every change is one function call, so one statement, one transaction, one round trip: the operation
-- id is looked up, the change made and its answer stored together (architecture 3.10). UIDs and MODSEQs come from the
-- folder's row under its lock, never from a sequence: what commits later is never below what committed earlier (3.9).

create schema if not exists everpost_mail;

create table if not exists everpost_mail.mailbox (
    guid uuid primary key,
    last_uid_validity bigint not null
);

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

create table if not exists everpost_mail.content (
    id bigint generated always as identity primary key,
    size bigint not null,
    header bytea not null,
    envelope bytea not null,
    body bytea not null,
    bodystructure bytea not null,
    structure bytea not null
);

create table if not exists everpost_mail.chunk (
    content_id bigint not null references everpost_mail.content (id) on delete cascade,
    n integer not null,
    data bytea not null,
    primary key (content_id, n)
);
alter table everpost_mail.chunk alter column data set storage external;

create table if not exists everpost_mail.message (
    folder_id bigint not null references everpost_mail.folder (id) on delete cascade,
    uid bigint not null,
    modseq bigint not null,
    content_id bigint not null references everpost_mail.content (id),
    internal_date timestamptz not null,
    flags text[] not null,
    primary key (folder_id, uid)
);
create index if not exists message_modseq on everpost_mail.message (folder_id, modseq);
create index if not exists message_content on everpost_mail.message (content_id);

create table if not exists everpost_mail.vanished (
    folder_id bigint not null references everpost_mail.folder (id) on delete cascade,
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
    at timestamptz not null default now()
);
create index if not exists operation_at on everpost_mail.operation (at);

-- The lowest MODSEQ of the current activation: epoch << 40, so that no MODSEQ of a lost epoch is ever given again (3.4).
create or replace function everpost_mail.modseq_floor() returns bigint language sql stable as $$
    select coalesce(max(epoch), 0) << 40 from everpost.opening
$$;

create or replace function everpost_mail.next_modseq(fid bigint) returns bigint language sql as $$
    update everpost_mail.folder set modseq = greatest(modseq, everpost_mail.modseq_floor()) + 1
     where id = fid returning modseq
$$;

-- A lossy activation (3.4): UIDs jump by a million in the opening transaction; without room the folder begins anew.
create or replace function everpost_mail.lossy_jump() returns void language sql as $$
    update everpost_mail.folder
       set uid_validity = case when uid_next + 1000000 < 4294967295 then uid_validity else uid_validity + 1 end,
           uid_next = uid_next + 1000000,
           modseq = greatest(modseq, everpost_mail.modseq_floor()) + 1
$$;

create or replace function everpost_mail.new_folder(
    box uuid, folder_name text, use_as text, can_select boolean default true
) returns bigint language plpgsql as $$
declare
    validity bigint;
    made bigint;
begin
    insert into everpost_mail.mailbox values (box, 0) on conflict do nothing;
    update everpost_mail.mailbox
       set last_uid_validity = greatest(last_uid_validity + 1, extract(epoch from now())::bigint)
     where guid = box returning last_uid_validity into validity;
    insert into everpost_mail.folder (mailbox, name, uid_validity, modseq, special_use, selectable)
    values (box, folder_name, validity, everpost_mail.modseq_floor() + 1, use_as, can_select)
    returning id into made;
    return made;
end $$;

-- The folders that every mailbox has; made when it is first touched.
create or replace function everpost_mail.ensure_mailbox(box uuid) returns void language plpgsql as $$
begin
    if exists (select 1 from everpost_mail.folder where mailbox = box and name = 'INBOX') then
        return;
    end if;
    insert into everpost_mail.mailbox values (box, 0) on conflict do nothing;
    perform 1 from everpost_mail.mailbox where guid = box for update;
    if exists (select 1 from everpost_mail.folder where mailbox = box and name = 'INBOX') then
        return;
    end if;
    perform everpost_mail.new_folder(box, 'INBOX', '');
    perform everpost_mail.new_folder(box, 'Drafts', '\Drafts');
    perform everpost_mail.new_folder(box, 'Sent', '\Sent');
    perform everpost_mail.new_folder(box, 'Trash', '\Trash');
    perform everpost_mail.new_folder(box, 'Junk', '\Junk');
    perform everpost_mail.new_folder(box, 'Archive', '\Archive');
    insert into everpost_mail.subscription
    select box, unnest(array['INBOX', 'Drafts', 'Sent', 'Trash', 'Junk', 'Archive']) on conflict do nothing;
end $$;

create or replace function everpost_mail.find_folder(box uuid, folder_name text) returns bigint language plpgsql as $$
declare
    found_id bigint;
begin
    perform everpost_mail.ensure_mailbox(box);
    select id into found_id from everpost_mail.folder where mailbox = box and name = folder_name and selectable;
    if found_id is null then
        raise exception 'no such folder' using errcode = 'EP001';
    end if;
    return found_id;
end $$;

create or replace function everpost_mail.must_own(box uuid, fid bigint) returns void language plpgsql as $$
begin
    -- The lock: one writer of a folder at a time, in the order of UIDs and MODSEQs.
    perform 1 from everpost_mail.folder where id = fid and mailbox = box and selectable for update;
    if not found then
        raise exception 'no such folder' using errcode = 'EP001';
    end if;
end $$;

create or replace function everpost_mail.add_content(
    content_size bigint, header bytea, envelope bytea, body bytea, bodystructure bytea, structure bytea, chunks bytea[]
) returns bigint language plpgsql as $$
declare
    made bigint;
begin
    insert into everpost_mail.content (size, header, envelope, body, bodystructure, structure)
    values (content_size, header, envelope, body, bodystructure, structure) returning id into made;
    insert into everpost_mail.chunk select made, n - 1, data from unnest(chunks) with ordinality as c (data, n);
    return made;
end $$;

create or replace function everpost_mail.add_message(
    fid bigint, content bigint, content_size bigint, received timestamptz, wanted text[]
) returns bigint language plpgsql as $$
declare
    given bigint;
    stamp bigint;
begin
    update everpost_mail.folder
       set uid_next = uid_next + 1,
           modseq = greatest(modseq, everpost_mail.modseq_floor()) + 1,
           messages = messages + 1,
           unseen = unseen + (not '\Seen' = any (wanted))::int,
           deleted = deleted + ('\Deleted' = any (wanted))::int,
           size = size + content_size
     where id = fid returning uid_next - 1, modseq into given, stamp;
    if given > 4294967294 then
        raise exception 'the folder has no UIDs left' using errcode = 'EP003';
    end if;
    insert into everpost_mail.message values (fid, given, stamp, content, received, wanted);
    return given;
end $$;

-- A group of deliveries for INBOXes of this database. One entry of each array per message; `chunk_of` says to which
-- message a chunk belongs. What was done before, by operation id, is left out.
create or replace function everpost_mail.deliver(
    ops text[], boxes uuid[], received timestamptz[], sizes bigint[], headers bytea[], envelopes bytea[],
    bodies bytea[], bodystructures bytea[], structures bytea[], chunk_of integer[], chunk_data bytea[]
) returns bigint[] language plpgsql as $$
declare
    box uuid;
    fid bigint;
    given bigint;
    touched bigint[] := '{}';
    i integer;
begin
    for box in select distinct b from unnest(boxes) b order by b loop
        perform everpost_mail.ensure_mailbox(box);
    end loop;
    perform 1 from everpost_mail.folder where mailbox = any (boxes) and name = 'INBOX' order by id for update;
    for i in 1 .. cardinality(ops) loop
        insert into everpost_mail.operation (id, answer) values (ops[i], '{}') on conflict do nothing;
        if found then
            select id into fid from everpost_mail.folder where mailbox = boxes[i] and name = 'INBOX';
            given := everpost_mail.add_message(
                fid,
                everpost_mail.add_content(
                    sizes[i], headers[i], envelopes[i], bodies[i], bodystructures[i], structures[i],
                    array(select data from unnest(chunk_of, chunk_data) with ordinality as c (owner, data, n)
                           where owner = i order by n)),
                sizes[i], received[i], '{}');
            touched := touched || fid;
        end if;
    end loop;
    return touched;
end $$;

create or replace function everpost_mail.append(
    op text, box uuid, folder_name text, received timestamptz[], flag_lists jsonb, sizes bigint[], headers bytea[],
    envelopes bytea[], bodies bytea[], bodystructures bytea[], structures bytea[], chunk_of integer[], chunk_data bytea[]
) returns jsonb language plpgsql as $$
declare
    known jsonb;
    fid bigint;
    uids bigint[] := '{}';
    i integer;
begin
    select answer into known from everpost_mail.operation where id = op;
    if known is not null then
        return known;
    end if;
    fid := everpost_mail.find_folder(box, folder_name);
    perform everpost_mail.must_own(box, fid);
    for i in 1 .. cardinality(sizes) loop
        uids := uids || everpost_mail.add_message(
            fid,
            everpost_mail.add_content(
                sizes[i], headers[i], envelopes[i], bodies[i], bodystructures[i], structures[i],
                array(select data from unnest(chunk_of, chunk_data) with ordinality as c (owner, data, n)
                       where owner = i order by n)),
            sizes[i], received[i], array(select jsonb_array_elements_text(flag_lists -> (i - 1))));
    end loop;
    select jsonb_build_object('uid_validity', uid_validity, 'uids', uids, 'folder', id) into known
      from everpost_mail.folder where id = fid;
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;

create or replace function everpost_mail.store_flags(
    op text, box uuid, fid bigint, wanted_uids bigint[], mode text, wanted text[], unchanged_since bigint
) returns jsonb language plpgsql as $$
declare
    known jsonb;
    stamp bigint;
    refused bigint[] := '{}';
begin
    select answer into known from everpost_mail.operation where id = op;
    if known is not null then
        return known;
    end if;
    perform everpost_mail.must_own(box, fid);
    if unchanged_since is not null then
        refused := array(select uid from everpost_mail.message
                          where folder_id = fid and uid = any (wanted_uids) and modseq > unchanged_since order by uid);
        wanted_uids := array(select unnest(wanted_uids) except select unnest(refused));
    end if;
    stamp := everpost_mail.next_modseq(fid);
    with old as (
        select uid, flags,
               case mode
                   when 'replace' then array(select distinct f from unnest(wanted) f order by f)
                   when 'add' then array(select distinct f from unnest(flags || wanted) f order by f)
                   else array(select f from unnest(flags) f where not f = any (wanted) order by f)
               end as fresh
          from everpost_mail.message where folder_id = fid and uid = any (wanted_uids)
    ), changed as (
        update everpost_mail.message m set flags = old.fresh, modseq = stamp
          from old
         where m.folder_id = fid and m.uid = old.uid
           and not (old.flags @> old.fresh and old.flags <@ old.fresh)
        returning ('\Seen' = any (old.flags))::int - ('\Seen' = any (old.fresh))::int as seen_delta,
                  ('\Deleted' = any (old.fresh))::int - ('\Deleted' = any (old.flags))::int as deleted_delta
    )
    update everpost_mail.folder f
       set unseen = f.unseen + d.unseen, deleted = f.deleted + d.deleted
      from (select coalesce(sum(seen_delta), 0) as unseen, coalesce(sum(deleted_delta), 0) as deleted from changed) d
     where f.id = fid;
    select jsonb_build_object(
        'messages', coalesce((select jsonb_agg(jsonb_build_array(uid, modseq, flags) order by uid)
                                from everpost_mail.message where folder_id = fid and uid = any (wanted_uids)), '[]'),
        'modified', refused, 'highest_modseq', stamp) into known;
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;

-- Removes messages and the contents that nobody refers to any more; keeps the UIDs for sessions that must be told.
create or replace function everpost_mail.remove_messages(fid bigint, gone bigint[]) returns bigint
language plpgsql as $$
declare
    stamp bigint := everpost_mail.next_modseq(fid);
    contents bigint[];
begin
    with removed as (
        delete from everpost_mail.message m using everpost_mail.content c
         where m.folder_id = fid and m.uid = any (gone) and c.id = m.content_id
        returning m.uid, m.content_id, m.flags, c.size
    ), noted as (
        insert into everpost_mail.vanished select fid, uid, stamp from removed on conflict do nothing
    ), counted as (
        update everpost_mail.folder f
           set messages = f.messages - d.n, unseen = f.unseen - d.unseen, deleted = f.deleted - d.deleted,
               size = f.size - d.size
          from (select count(*) as n, coalesce(sum((not '\Seen' = any (flags))::int), 0) as unseen,
                       coalesce(sum(('\Deleted' = any (flags))::int), 0) as deleted, coalesce(sum(size), 0) as size
                  from removed) d
         where f.id = fid
    )
    select array_agg(content_id) into contents from removed;
    delete from everpost_mail.content c where c.id = any (contents)
       and not exists (select 1 from everpost_mail.message m where m.content_id = c.id);
    return stamp;
end $$;

create or replace function everpost_mail.expunge(op text, box uuid, fid bigint, among bigint[]) returns jsonb
language plpgsql as $$
declare
    known jsonb;
    gone bigint[];
begin
    select answer into known from everpost_mail.operation where id = op;
    if known is not null then
        return known;
    end if;
    perform everpost_mail.must_own(box, fid);
    gone := array(select uid from everpost_mail.message
                   where folder_id = fid and '\Deleted' = any (flags) and (among is null or uid = any (among))
                   order by uid);
    if cardinality(gone) > 0 then
        perform everpost_mail.remove_messages(fid, gone);
    end if;
    known := jsonb_build_object('vanished', gone);
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;

create or replace function everpost_mail.copy(
    op text, box uuid, fid bigint, wanted bigint[], target_name text, moving boolean
) returns jsonb language plpgsql as $$
declare
    known jsonb;
    target bigint;
    one record;
    source_uids bigint[] := '{}';
    uids bigint[] := '{}';
begin
    select answer into known from everpost_mail.operation where id = op;
    if known is not null then
        return known;
    end if;
    target := everpost_mail.find_folder(box, target_name);
    perform 1 from everpost_mail.folder where id in (fid, target) order by id for update;
    perform everpost_mail.must_own(box, fid);
    for one in select m.uid, m.content_id, m.internal_date, m.flags, c.size
                 from everpost_mail.message m join everpost_mail.content c on c.id = m.content_id
                where m.folder_id = fid and m.uid = any (wanted) order by m.uid loop
        uids := uids || everpost_mail.add_message(target, one.content_id, one.size, one.internal_date, one.flags);
        source_uids := source_uids || one.uid;
    end loop;
    if moving and cardinality(source_uids) > 0 then
        perform everpost_mail.remove_messages(fid, source_uids);
    end if;
    select jsonb_build_object('uid_validity', uid_validity, 'uids', uids, 'source_uids', source_uids, 'folder', id)
      into known from everpost_mail.folder where id = target;
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;

create or replace function everpost_mail.create_folder(op text, box uuid, folder_name text, use_as text) returns jsonb
language plpgsql as $$
declare
    known jsonb;
    parts text[] := string_to_array(folder_name, '/');
    parent text;
    i integer;
begin
    select answer into known from everpost_mail.operation where id = op;
    if known is not null then
        return known;
    end if;
    perform everpost_mail.ensure_mailbox(box);
    perform 1 from everpost_mail.mailbox where guid = box for update;
    if exists (select 1 from everpost_mail.folder where mailbox = box and name = folder_name and selectable) then
        raise exception 'folder exists' using errcode = 'EP002';
    end if;
    for i in 1 .. cardinality(parts) - 1 loop
        parent := array_to_string(parts[1:i], '/');
        if not exists (select 1 from everpost_mail.folder where mailbox = box and name = parent) then
            perform everpost_mail.new_folder(box, parent, '');
        end if;
    end loop;
    delete from everpost_mail.folder where mailbox = box and name = folder_name and not selectable;
    perform everpost_mail.new_folder(box, folder_name, use_as);
    known := '{}';
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;

create or replace function everpost_mail.delete_folder(op text, box uuid, folder_name text) returns jsonb
language plpgsql as $$
declare
    known jsonb;
    fid bigint;
    all_uids bigint[];
begin
    select answer into known from everpost_mail.operation where id = op;
    if known is not null then
        return known;
    end if;
    fid := everpost_mail.find_folder(box, folder_name);
    perform everpost_mail.must_own(box, fid);
    all_uids := array(select uid from everpost_mail.message where folder_id = fid);
    if cardinality(all_uids) > 0 then
        perform everpost_mail.remove_messages(fid, all_uids);
    end if;
    if exists (select 1 from everpost_mail.folder
                where mailbox = box and left(name, length(folder_name) + 1) = folder_name || '/') then
        update everpost_mail.folder set selectable = false where id = fid;
    else
        delete from everpost_mail.folder where id = fid;
    end if;
    known := '{}';
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;

create or replace function everpost_mail.rename_folder(op text, box uuid, folder_name text, new_name text) returns jsonb
language plpgsql as $$
declare
    known jsonb;
    fid bigint;
    target bigint;
begin
    select answer into known from everpost_mail.operation where id = op;
    if known is not null then
        return known;
    end if;
    fid := everpost_mail.find_folder(box, folder_name);
    perform 1 from everpost_mail.mailbox where guid = box for update;
    if exists (select 1 from everpost_mail.folder where mailbox = box and name = new_name) then
        raise exception 'folder exists' using errcode = 'EP002';
    end if;
    perform everpost_mail.create_folder(op || ':parents', box, new_name, '');
    if folder_name = 'INBOX' then
        perform everpost_mail.copy(op || ':move', box, fid,
            array(select uid from everpost_mail.message where folder_id = fid), new_name, true);
    else
        -- The folder keeps its identity, UIDVALIDITY and messages; the place made for it goes.
        delete from everpost_mail.folder where mailbox = box and name = new_name;
        update everpost_mail.folder set name = new_name where id = fid;
        update everpost_mail.folder set name = new_name || substr(name, length(folder_name) + 1)
         where mailbox = box and left(name, length(folder_name) + 1) = folder_name || '/';
    end if;
    known := '{}';
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;

create or replace function everpost_mail.subscribe(op text, box uuid, folder_name text, wanted boolean) returns jsonb
language plpgsql as $$
begin
    perform everpost_mail.ensure_mailbox(box);
    if wanted then
        insert into everpost_mail.subscription values (box, folder_name) on conflict do nothing;
    else
        delete from everpost_mail.subscription where mailbox = box and name = folder_name;
    end if;
    insert into everpost_mail.operation (id, answer) values (op, '{}') on conflict do nothing;
    return '{}';
end $$;

-- Operation ids are kept for 7 days; at most a day of them goes at a time, whatever the clock says (3.10).
create or replace function everpost_mail.purge_operations() returns bigint language sql as $$
    with old as (
        delete from everpost_mail.operation
         where at < now() - interval '7 days' and at < (select min(at) from everpost_mail.operation) + interval '1 day'
        returning 1
    )
    select count(*) from old
$$;

grant usage on schema everpost_mail to everpost_store;
grant select, insert, update, delete on all tables in schema everpost_mail to everpost_store;
grant execute on all functions in schema everpost_mail to everpost_store;
