-- $1 dispatcher, $2 and $3 ids and leases in its memory, $4 from what age on.
-- Rows that were leased to it by a statement whose answer it never saw, or whose attempt it did not make: as if they had
-- not been claimed. What was cancelled meanwhile ends here.
-- By the clock and not by now(): a hand-over may commit while this transaction waits.
with stray as materialized (
  select id, tenant_id, queue_id, flow_key_id, cancel_requested_at, cancel_requested_at is not null as canceled
  from deliveries d
  where state = 2 and dispatcher_id = $1 and active_at <= clock_timestamp() - $4::interval
    and not exists (select from unnest($2::uuid[], $3::bigint[]) as m(id, lease) where m.id = d.id and m.lease = d.lease)
  order by id for update),
gone as (delete from deliveries where id = any(array(select id from stray where canceled))),
-- An upsert, because the row of a cancellation that this statement has waited for is younger than its snapshot.
ended as (
  insert into cancellations (message_id, tenant_id, requested_at, canceled_at)
  select id, tenant_id, cancel_requested_at, now() from stray where canceled order by id
  on conflict (message_id) do update set canceled_at = excluded.canceled_at),
again as (
  update deliveries
  set state = 1, dispatcher_id = null, active_at = null, due_at = now(), unsettled_claims = greatest(unsettled_claims - 1, 0)
  where id = any(array(select id from stray where not canceled)))
select queue_id, flow_key_id from stray
