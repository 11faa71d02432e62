-- Messages: added, flagged, copied, removed. See schema.sql for the order of locks and the codes of errors.

-- Adds messages to folders whose locks are held; a message whose target is null is passed over. One entry of `targets`,
-- `received`, `flag_lists` (names with a space between) and `content_of` per message; one entry of `headers` to
-- `structures` per content; `chunk_of` says to which content (from 1) a piece belongs. Returns the UIDs, in order.
create or replace function everpost_mail.put_messages(
    targets bigint[], received timestamptz[], flag_lists text[], content_of integer[], sizes bigint[], headers bytea[],
    envelopes bytea[], bodies bytea[], bodystructures bytea[], structures bytea[], chunk_of integer[],
    chunk_n integer[], chunk_data bytea[]
) returns bigint[] language plpgsql as $$
declare
    base bigint := everpost_mail.modseq_floor();
    single boolean := everpost_mail.single();
    stretch bigint := everpost_mail.stretch();
    uids bigint[];
begin
    with wanted as materialized (
        select i, target, taken, owner, sizes[owner] as size,
               coalesce(string_to_array(nullif(flag_list, ''), ' '), '{}') as flags,
               row_number() over (partition by target order by i) as k
          from unnest(targets, received, flag_lists, content_of) with ordinality
            as u (target, taken, flag_list, owner, i)
         where target is not null
    ), used as materialized (
        select owner, nextval('everpost_mail.content_id_seq') as id from (select distinct owner from wanted) o
    ), contents as (
        insert into everpost_mail.content overriding system value
        select used.id, c.header, c.envelope, c.body, c.bodystructure, c.structure
          from unnest(headers, envelopes, bodies, bodystructures, structures) with ordinality
            as c (header, envelope, body, bodystructure, structure, owner)
          join used on used.owner = c.owner
    ), chunks as (
        insert into everpost_mail.chunk
        select used.id, c.n, c.data
          from unnest(chunk_of, chunk_n, chunk_data) as c (owner, n, data) join used on used.owner = c.owner
    ), counted as (
        update everpost_mail.folder f
           set uid_next = f.uid_next + d.n, modseq = greatest(f.modseq, base) + d.n, messages = f.messages + d.n,
               unseen = f.unseen + d.unseen, deleted = f.deleted + d.deleted, size = f.size + d.size,
               single_in = case when single then stretch else f.single_in end,
               single_from = case when single and f.single_in is distinct from stretch then f.uid_next
                                  else f.single_from end
          from (select target, count(*) as n, count(*) filter (where not '\Seen' = any (flags)) as unseen,
                       count(*) filter (where '\Deleted' = any (flags)) as deleted, sum(size)::bigint as size
                  from wanted group by target) d
         where f.id = d.target
        returning f.id, f.uid_next - d.n - 1 as uid, f.modseq - d.n as modseq
    ), placed as (
        insert into everpost_mail.message
        select c.id, c.uid + w.k, c.modseq + w.k, used.id, w.size, w.taken, w.flags
          from wanted w join counted c on c.id = w.target join used on used.owner = w.owner
        returning folder_id, uid
    )
    select array_agg(c.uid + w.k order by w.i) into uids from wanted w join counted c on c.id = w.target;
    perform everpost_mail.must_have_room(targets);
    return uids;
end $$;

-- A group of deliveries for INBOXes of this database. What was done before, by operation id, is left out. Returns the
-- folders that were touched. The locks are written, so the commit waits for the set even if nothing was new.
create or replace function everpost_mail.deliver(
    ops text[], boxes uuid[], received timestamptz[], content_of integer[], sizes bigint[], headers bytea[],
    envelopes bytea[], bodies bytea[], bodystructures bytea[], structures bytea[], chunk_of integer[],
    chunk_n integer[], chunk_data bytea[]
) returns bigint[] language plpgsql as $$
declare
    box uuid;
    targets bigint[];
begin
    for box in select b from unnest(boxes) b
                where not exists (select 1 from everpost_mail.folder where mailbox = b and name = 'INBOX')
                group by b order by b loop
        perform everpost_mail.ensure_mailbox(box);
    end loop;
    perform 1 from everpost_mail.folder where mailbox = any (boxes) and name = 'INBOX' order by id for update;
    with fresh as (
        insert into everpost_mail.operation (id, answer) select op, '{}' from unnest(ops) op
        on conflict do nothing returning id
    ), firsts as (
        select id, min(i) as i from fresh join unnest(ops) with ordinality as u (op, i) on op = id group by id
    )
    select array_agg(f.id order by u.i) into targets
      from unnest(boxes) with ordinality as u (box, i)
      left join firsts on firsts.i = u.i
      left join everpost_mail.folder f on firsts.i is not null and f.mailbox = u.box and f.name = 'INBOX';
    perform everpost_mail.put_messages(
        targets, received, array_fill(''::text, array[cardinality(ops)]), content_of, sizes, headers, envelopes,
        bodies, bodystructures, structures, chunk_of, chunk_n, chunk_data);
    return coalesce((select array_agg(distinct t) from unnest(targets) t where t is not null), '{}');
end $$;

create or replace function everpost_mail.append(
    op text, box uuid, folder_name text, received timestamptz[], flag_lists text[], content_of integer[],
    sizes bigint[], headers bytea[], envelopes bytea[], bodies bytea[], bodystructures bytea[], structures bytea[],
    chunk_of integer[], chunk_n integer[], chunk_data bytea[]
) returns jsonb language plpgsql as $$
declare
    known jsonb := everpost_mail.answered(op);
    fid bigint;
    uids bigint[];
begin
    if known is not null then
        return known;
    end if;
    fid := everpost_mail.lock_named(box, folder_name);
    uids := everpost_mail.put_messages(
        array_fill(fid, array[cardinality(received)]), received, flag_lists, content_of, sizes, headers, envelopes,
        bodies, bodystructures, structures, chunk_of, chunk_n, chunk_data);
    select jsonb_build_object('uid_validity', uid_validity, 'uids', coalesce(uids, '{}'), 'folder', id) into known
      from everpost_mail.folder where id = fid;
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;

-- What STORE answers is read again when it is repeated: only the refused ones are kept with the operation.
create or replace function everpost_mail.store_flags(
    op text, box uuid, fid bigint, wanted_uids bigint[], mode text, wanted text[], unchanged_since bigint
) returns jsonb language plpgsql as $$
declare
    known jsonb := everpost_mail.answered(op);
    stamp bigint;
    refused bigint[] := '{}';
begin
    if known is null then
        perform everpost_mail.lock_folder(box, fid);
        if unchanged_since is not null then
            refused := array(select uid from everpost_mail.message
                              where folder_id = fid and uid = any (wanted_uids) and modseq > unchanged_since
                              order by uid);
        end if;
        select greatest(modseq, everpost_mail.modseq_floor()) + 1 into stamp from everpost_mail.folder where id = fid;
        with old as (
            select uid, flags,
                   case mode
                       when 'replace' then array(select distinct f from unnest(wanted) f order by f)
                       when 'add' then array(select distinct f from unnest(flags || wanted) f order by f)
                       else array(select f from unnest(flags) f where not f = any (wanted) order by f)
                   end as fresh
              from everpost_mail.message
             where folder_id = fid and uid = any (wanted_uids) and not uid = any (refused)
        ), changed as (
            update everpost_mail.message m set flags = old.fresh, modseq = stamp
              from old
             where m.folder_id = fid and m.uid = old.uid
               and not (old.flags @> old.fresh and old.flags <@ old.fresh)
            returning ('\Seen' = any (old.flags))::int - ('\Seen' = any (old.fresh))::int as unseen,
                      ('\Deleted' = any (old.fresh))::int - ('\Deleted' = any (old.flags))::int as deleted
        )
        update everpost_mail.folder f
           set modseq = stamp, unseen = f.unseen + d.unseen, deleted = f.deleted + d.deleted
          from (select count(*) as n, sum(unseen) as unseen, sum(deleted) as deleted from changed) d
         where f.id = fid and d.n > 0;
        known := jsonb_build_object('modified', refused);
        insert into everpost_mail.operation (id, answer) values (op, known);
    end if;
    return known || (
        select jsonb_build_object(
                   'highest_modseq', f.modseq,
                   'messages', coalesce(
                       (select jsonb_agg(jsonb_build_array(m.uid, m.modseq, m.flags) order by m.uid)
                          from everpost_mail.message m
                         where m.folder_id = fid and m.uid = any (wanted_uids)
                           and not known -> 'modified' @> to_jsonb(m.uid)), '[]'))
          from everpost_mail.folder f where f.id = fid);
end $$;

-- Removes messages and the contents that nobody refers to any more; keeps the UIDs for sessions that must be told.
create or replace function everpost_mail.remove_messages(fid bigint, gone bigint[]) returns void language plpgsql as $$
declare
    stamp bigint;
    contents bigint[];
begin
    select greatest(modseq, everpost_mail.modseq_floor()) + 1 into stamp from everpost_mail.folder where id = fid;
    with removed as (
        delete from everpost_mail.message where folder_id = fid and uid = any (gone)
        returning uid, content_id, size, flags
    ), noted as (
        insert into everpost_mail.vanished select fid, uid, stamp from removed
    ), counted as (
        update everpost_mail.folder f
           set modseq = stamp, messages = f.messages - d.n, unseen = f.unseen - d.unseen,
               deleted = f.deleted - d.deleted, size = f.size - d.size
          from (select count(*) as n, count(*) filter (where not '\Seen' = any (flags)) as unseen,
                       count(*) filter (where '\Deleted' = any (flags)) as deleted, sum(size)::bigint as size
                  from removed) d
         where f.id = fid and d.n > 0
    )
    select array_agg(distinct content_id) into contents from removed;
    -- The last two copies of a content may go at once in two folders: their transactions meet here, and the second one,
    -- looking again after it waited, finds that it has the last copy.
    perform 1 from everpost_mail.content c
      where c.id = any (contents) and exists (select 1 from everpost_mail.message m where m.content_id = c.id)
      order by c.id for update;
    with unused as (
        delete from everpost_mail.content c where c.id = any (contents)
           and not exists (select 1 from everpost_mail.message m where m.content_id = c.id)
        returning id
    )
    delete from everpost_mail.chunk using unused where content_id = unused.id;
end $$;

create or replace function everpost_mail.expunge(op text, box uuid, fid bigint, among bigint[]) returns jsonb
language plpgsql as $$
declare
    known jsonb := everpost_mail.answered(op);
    gone bigint[];
begin
    if known is not null then
        return known;
    end if;
    perform everpost_mail.lock_folder(box, fid);
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

-- Both folders' locks are held. Returns the source's UIDs and, in the same order, the new ones.
create or replace function everpost_mail.copy_messages(
    fid bigint, wanted bigint[], target bigint, moving boolean, out source_uids bigint[], out uids bigint[]
) language plpgsql as $$
declare
    base bigint := everpost_mail.modseq_floor();
    single boolean := everpost_mail.single();
    stretch bigint := everpost_mail.stretch();
begin
    with chosen as materialized (
        select m.*, row_number() over (order by m.uid) as k
          from everpost_mail.message m where m.folder_id = fid and m.uid = any (wanted)
    ), counted as (
        update everpost_mail.folder f
           set uid_next = f.uid_next + d.n, modseq = greatest(f.modseq, base) + d.n, messages = f.messages + d.n,
               unseen = f.unseen + d.unseen, deleted = f.deleted + d.deleted, size = f.size + d.size,
               single_in = case when single then stretch else f.single_in end,
               single_from = case when single and f.single_in is distinct from stretch then f.uid_next
                                  else f.single_from end
          from (select count(*) as n, count(*) filter (where not '\Seen' = any (flags)) as unseen,
                       count(*) filter (where '\Deleted' = any (flags)) as deleted, sum(size)::bigint as size
                  from chosen) d
         where f.id = target and d.n > 0
        returning f.uid_next - d.n - 1 as uid, f.modseq - d.n as modseq
    ), placed as (
        insert into everpost_mail.message
        select target, c.uid + k, c.modseq + k, content_id, size, internal_date, flags from chosen, counted c
    )
    select coalesce(array_agg(chosen.uid order by k), '{}'), coalesce(array_agg(c.uid + k order by k), '{}')
      into source_uids, uids from chosen, counted c;
    perform everpost_mail.must_have_room(array[target]);
    if moving and cardinality(source_uids) > 0 then
        perform everpost_mail.remove_messages(fid, source_uids);
    end if;
end $$;

create or replace function everpost_mail.copy(
    op text, box uuid, fid bigint, wanted bigint[], target_name text, moving boolean
) returns jsonb language plpgsql as $$
declare
    known jsonb := everpost_mail.answered(op);
    target bigint;
begin
    if known is not null then
        return known;
    end if;
    perform 1 from everpost_mail.folder
      where mailbox = box and (id = fid or name = target_name) order by id for update;
    target := everpost_mail.lock_named(box, target_name);
    perform everpost_mail.lock_folder(box, fid);
    select jsonb_build_object(
               'uid_validity', f.uid_validity, 'folder', f.id, 'uids', c.uids, 'source_uids', c.source_uids)
      into known
      from everpost_mail.copy_messages(fid, wanted, target, moving) c, everpost_mail.folder f where f.id = target;
    insert into everpost_mail.operation (id, answer) values (op, known);
    return known;
end $$;
