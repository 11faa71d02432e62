-- What a session of the mail roles may do: call the functions, and read the tables.

grant usage on schema everpost_mail to everpost_store;
grant select, insert, update, delete on all tables in schema everpost_mail to everpost_store;
grant usage on all sequences in schema everpost_mail to everpost_store;
grant execute on all functions in schema everpost_mail to everpost_store;
