"""What the agent asks of a running instance, each in one query."""

POSITIONS = """
select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint as flush,
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as insert,
       (select coalesce(json_agg(json_build_array(application_name, state,
               coalesce(pg_wal_lsn_diff(flush_lsn, '0/0'), 0)::bigint,
               coalesce(pg_wal_lsn_diff(replay_lsn, '0/0'), 0)::bigint)), '[]')::text
          from pg_stat_replication) as senders,
       (select coalesce(json_agg(json_build_array(pid, backend_xid::text)), '[]')::text
          from pg_stat_activity where wait_event = 'SyncRep') as waiters
"""
NO_RECEIVER = "select current_setting('primary_conninfo') = '' and not exists (select from pg_stat_wal_receiver)"
STANDBY = """
select coalesce(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0'), 0)::bigint as received,
       coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::bigint as replayed,
       r.status,
       -- Without a receiver the log on disk says it; the control file lags behind until the next restartpoint.
       coalesce(r.received_tli, (select max(('x' || left(name, 8))::bit(32)::int) from pg_ls_waldir()
                                  where name ~ '^[0-9A-F]{24}$')) as received_tli,
       pg_wal_lsn_diff(r.latest_end_lsn, '0/0')::bigint as generated,
       case when pg_is_in_recovery() and pg_get_wal_replay_pause_state() = 'paused'
            then current_setting('recovery_target_time') else '' end as stands
  from (select 1) one left join pg_stat_wal_receiver r on true
"""
