-- Mailboxes and folders: found, locked, made, named, removed; what an activation and housekeeping do to all of them.

-- The lowest MODSEQ of the current activation: epoch << 40, so that no MODSEQ of a lost epoch is ever given again (3.4).
create or replace function everpost_mail.modseq_floor() returns bigint language sql stable as $$
    select coalesce(max(epoch), 0) << 40 from everpost.opening
$$;

-- The answer of an operation that was done before, else null. The row is written again on purpose: the first commit may
-- be visible here and not yet on the set (its wait was cancelled); a commit that writes waits for all before it (3.9).
create or replace function everpost_mail.answered(op text) returns jsonb language sql as $$
    update everpost_mail.operation set repeated = repeated + 1 where id = op returning answer
$$;

create or replace function everpost_mail.new_uid_validity(box uuid) returns bigint language plpgsql as $$
declare
    given bigint;
begin
    update everpost_mail.mailbox
       set last_uid_validity = greatest(last_uid_validity + 1, extract(epoch from now())::bigint)
     where guid = box returning last_uid_validity into given;
    return given;
end $$;

create or replace function everpost_mail.new_folder(box uuid, folder_name text, use_as text) returns bigint
language sql as $$
    insert into everpost_mail.folder (mailbox, name, uid_validity, modseq, special_use)
    values (box, folder_name, everpost_mail.new_uid_validity(box), everpost_mail.modseq_floor() + 1, use_as)
    returning id
$$;

-- The folders that every mailbox has (`interface.first_folders`), made when it is first touched.
create or replace function everpost_mail.ensure_mailbox(box uuid) returns void language plpgsql as $$
declare
    names text[] := array['INBOX', 'Drafts', 'Sent', 'Trash', 'Junk', 'Archive'];
    uses text[] := array['', '\Drafts', '\Sent', '\Trash', '\Junk', '\Archive'];
begin
    if exists (select 1 from everpost_mail.folder where mailbox = box and name = 'INBOX') then
        return;
    end if;
    insert into everpost_mail.mailbox values (box, 0) on conflict do nothing;
    perform 1 from everpost_mail.mailbox where guid = box for update;
    if exists (select 1 from everpost_mail.folder where mailbox = box and name = 'INBOX') then
        return;
    end if;
    perform everpost_mail.new_folder(box, name, use_as) from unnest(names, uses) as f (name, use_as);
    insert into everpost_mail.subscription select box, unnest(names) on conflict do nothing;
end $$;

-- Taken by what adds, removes and names folders.
create or replace function everpost_mail.lock_mailbox(box uuid) returns void language plpgsql as $$
begin
    perform everpost_mail.ensure_mailbox(box);
    perform 1 from everpost_mail.mailbox where guid = box for update;
end $$;

-- The lock: one writer of a folder at a time, in the order of UIDs and MODSEQs.
create or replace function everpost_mail.lock_folder(box uuid, fid bigint) returns void language plpgsql as $$
begin
    perform 1 from everpost_mail.folder where id = fid and mailbox = box and selectable for update;
    if not found then
        raise exception 'no such folder' using errcode = 'EP001';
    end if;
end $$;

create or replace function everpost_mail.lock_named(box uuid, folder_name text) returns bigint language plpgsql as $$
declare
    fid bigint;
begin
    perform everpost_mail.ensure_mailbox(box);
    select id into fid from everpost_mail.folder
     where mailbox = box and name = folder_name and selectable for update;
    if fid is null then
        raise exception 'no such folder' using errcode = 'EP001';
    end if;
    return fid;
end $$;

create or replace function everpost_mail.make_parents(box uuid, folder_name text) returns void language plpgsql as $$
declare
    parts text[] := string_to_array(folder_name, '/');
    parent text;
begin
    for i in 1 .. cardinality(parts) - 1 loop
        parent := array_to_string(parts[1:i], '/');
        if not exists (select 1 from everpost_mail.folder where mailbox = box and name = parent) then
            perform everpost_mail.new_folder(box, parent, '');
        end if;
    end loop;
end $$;

create or replace function everpost_mail.create_folder(op text, box uuid, folder_name text, use_as text) returns jsonb
language plpgsql as $$
declare
    known jsonb := everpost_mail.answered(op);
begin
    if known is not null then
        return known;
    end if;
    perform everpost_mail.lock_mailbox(box);
    if exists (select 1 from everpost_mail.folder where mailbox = box and name = folder_name and selectable) then
        raise exception 'folder exists' using errcode = 'EP002';
    end if;
    delete from everpost_mail.folder where mailbox = box and name = folder_name;
    perform everpost_mail.make_parents(box, folder_name);
    perform everpost_mail.new_folder(box, folder_name, use_as);
    insert into everpost_mail.operation (id, answer) values (op, '{}');
    return '{}';
end $$;

create or replace function everpost_mail.has_children(box uuid, folder_name text) returns boolean language sql as $$
    select exists (select 1 from everpost_mail.folder where mailbox = box and starts_with(name, folder_name || '/'))
$$;

create or replace function everpost_mail.delete_folder(op text, box uuid, folder_name text) returns jsonb
language plpgsql as $$
declare
    known jsonb := everpost_mail.answered(op);
    found_one everpost_mail.folder;
    gone bigint[];
begin
    if known is not null then
        return known;
    end if;
    if folder_name = 'INBOX' then
        raise exception 'INBOX cannot be deleted.' using errcode = 'EP003';
    end if;
    perform everpost_mail.lock_mailbox(box);
    select * into found_one from everpost_mail.folder where mailbox = box and name = folder_name for update;
    if found_one.id is null then
        raise exception 'no such folder' using errcode = 'EP001';
    end if;
    gone := array(select uid from everpost_mail.message where folder_id = found_one.id);
    if cardinality(gone) > 0 then
        perform everpost_mail.remove_messages(found_one.id, gone);
    end if;
    if not everpost_mail.has_children(box, folder_name) then
        delete from everpost_mail.vanished where folder_id = found_one.id;
        delete from everpost_mail.folder where id = found_one.id;
    elsif found_one.selectable then
        update everpost_mail.folder set selectable = false where id = found_one.id;
    else
        raise exception '% holds other folders.', folder_name using errcode = 'EP003';
    end if;
    insert into everpost_mail.operation (id, answer) values (op, '{}');
    return '{}';
end $$;

create or replace function everpost_mail.rename_folder(op text, box uuid, folder_name text, new_name text) returns jsonb
language plpgsql as $$
declare
    known jsonb := everpost_mail.answered(op);
    fid bigint;
    target bigint;
begin
    if known is not null then
        return known;
    end if;
    perform everpost_mail.lock_mailbox(box);
    perform 1 from everpost_mail.folder
      where mailbox = box and (name = folder_name or starts_with(name, folder_name || '/')) order by id for update;
    select id into fid from everpost_mail.folder where mailbox = box and name = folder_name;
    if fid is null then
        raise exception 'no such folder' using errcode = 'EP001';
    end if;
    if exists (select 1 from everpost_mail.folder where mailbox = box and name = new_name) then
        raise exception 'folder exists' using errcode = 'EP002';
    end if;
    if folder_name <> 'INBOX' and starts_with(new_name, folder_name || '/') then
        raise exception 'A folder cannot be moved into itself.' using errcode = 'EP003';
    end if;
    perform everpost_mail.make_parents(box, new_name);
    if folder_name = 'INBOX' then
        -- INBOX stays and so do its children; its messages move (RFC 3501 6.3.5).
        target := everpost_mail.new_folder(box, new_name, '');
        perform everpost_mail.copy_messages(
            fid, array(select uid from everpost_mail.message where folder_id = fid), target, true);
    else
        update everpost_mail.folder set name = new_name || substr(name, length(folder_name) + 1)
         where mailbox = box and (id = fid or starts_with(name, folder_name || '/'));
    end if;
    insert into everpost_mail.operation (id, answer) values (op, '{}');
    return '{}';
end $$;

create or replace function everpost_mail.subscribe(op text, box uuid, folder_name text, wanted boolean) returns jsonb
language plpgsql as $$
begin
    if everpost_mail.answered(op) is null then
        perform everpost_mail.ensure_mailbox(box);
        if wanted then
            insert into everpost_mail.subscription values (box, folder_name) on conflict do nothing;
        else
            delete from everpost_mail.subscription where mailbox = box and name = folder_name;
        end if;
        insert into everpost_mail.operation (id, answer) values (op, '{}');
    end if;
    return '{}';
end $$;

-- A lossy activation (3.4): in the opening transaction UIDs jump by more than the lost activation can have given. A
-- folder without room for that begins anew: another UIDVALIDITY, and another id, so that no session takes its UIDs for
-- the old ones. Folder ids and UIDVALIDITYs jump as well. What the lost activation can have given is bounded by
-- `must_have_room`.
create or replace function everpost_mail.lossy_jump() returns void language plpgsql as $$
declare
    base bigint := everpost_mail.modseq_floor();
    one record;
    anew bigint;
begin
    perform setval('everpost_mail.folder_id_seq', nextval('everpost_mail.folder_id_seq') + 1000000);
    update everpost_mail.mailbox
       set last_uid_validity = greatest(last_uid_validity, extract(epoch from now())::bigint) + 1000;
    for one in select id, mailbox from everpost_mail.folder where uid_next + 1000000 > 4294967295 order by id loop
        update everpost_mail.folder
           set id = default, uid_validity = everpost_mail.new_uid_validity(one.mailbox), uid_next = messages + 1
         where id = one.id returning id into anew;
        update everpost_mail.message m set folder_id = anew, uid = n.k
          from (select uid, row_number() over (order by uid) as k
                  from everpost_mail.message where folder_id = one.id) n
         where m.folder_id = one.id and m.uid = n.uid;
        delete from everpost_mail.vanished where folder_id = one.id;
    end loop;
    update everpost_mail.folder
       set uid_next = uid_next + 1000000, modseq = greatest(modseq, base) + 1, single_in = null, single_from = null;
end $$;

-- Whether a commit is acknowledged by this copy alone, now (3.1): nobody is named whom it waits for.
create or replace function everpost_mail.single() returns boolean language sql stable as $$
    select current_setting('synchronous_standby_names') = ''
$$;

-- The present stretch of time in which another copy may lack something.
create or replace function everpost_mail.stretch() returns bigint language sql stable as $$
    select coalesce(max(covered), 0) from everpost_mail.resilience
$$;

-- The Active Manager is certain that nothing that was given so far is lacking elsewhere: a new stretch begins.
create or replace function everpost_mail.covered() returns void language plpgsql as $$
begin
    update everpost_mail.resilience set covered = covered + 1;
    if not found then
        insert into everpost_mail.resilience values (1);
    end if;
end $$;

-- The bounds of a folder's UIDs, after messages were added to those folders: the 32 bits of the protocol, and a million
-- while single, so that the jump of a lossy activation passes all that were given (3.4).
create or replace function everpost_mail.must_have_room(targets bigint[]) returns void language plpgsql as $$
begin
    if exists (select 1 from everpost_mail.folder where id = any (targets) and uid_next > 4294967295) then
        raise exception 'The folder has no UIDs left.' using errcode = 'EP003';
    end if;
    if everpost_mail.single() and exists (
        select 1 from everpost_mail.folder where id = any (targets) and uid_next - single_from > 1000000
    ) then
        raise exception 'The folder took a million messages while its database has no second copy that is whole;'
            ' it takes more as soon as it has one.' using errcode = 'EP003';
    end if;
end $$;

-- Operation ids are kept for 7 days. Once a day one day of them goes, whatever the clock says (3.10): it may have jumped
-- either way, and then at most one day too many is forgotten.
drop function if exists everpost_mail.purge_operations();
create or replace function everpost_mail.upkeep() returns bigint language plpgsql as $$
declare
    gone bigint;
begin
    update everpost_mail.upkept set at = now() where at not between now() - interval '1 day' and now();
    if not found then
        if exists (select from everpost_mail.upkept) then
            return 0;
        end if;
        insert into everpost_mail.upkept values (now());
    end if;
    with old as (
        delete from everpost_mail.operation
         where at < now() - interval '7 days' and at < (select min(at) from everpost_mail.operation) + interval '1 day'
        returning 1
    )
    select count(*) from old into gone;
    return gone;
end $$;
