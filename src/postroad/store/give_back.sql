-- $1 dispatcher, $2 ids in its memory, $3 from what age on. Rows that were leased to it by a commit whose answer it never saw.
with stray as materialized (
  select id from deliveries
  where state = 2 and dispatcher_id = $1 and active_at < now() - $3::interval and id <> all($2::uuid[])
  order by id for update)
update deliveries set state = 1, dispatcher_id = null, active_at = null, due_at = now()
where id = any(array(select id from stray)) returning id
