-- $1 dispatchers that lock_dead returned; repeat until it returns nothing, then delete them.
-- After five claims without an outcome the message is buried: it may be what kills its dispatchers.
with lost as materialized (
  select d.*, cancel_requested_at is not null as canceled, cancel_requested_at is null and unsettled_claims >= 5 as poison
  from deliveries d where state = 2 and dispatcher_id = any($1::bigint[]) order by id limit 1000 for update),
over as materialized (select * from lost where canceled or poison),
logged as (
  insert into attempts (message_id, tenant_id, lease, retried, active_at, duration, outcome, reason, next_due_at)
  select id, tenant_id, lease, retried, active_at, now() - active_at, case when poison then 2 else 3 end,
    'the process that made the attempt was lost', case when not (canceled or poison) then now() end from lost),
gone as (delete from deliveries where id = any(array(select id from over))),
buried as (
  insert into dead_letters (tenant_id, message_id, reason)
  select tenant_id, id, 'poison: no outcome after five claims' from over where poison
  returning id, message_id, failed_at),
-- An upsert, because the row of a cancellation that this statement has waited for is younger than its snapshot.
canceled as (
  insert into cancellations (message_id, tenant_id, requested_at, canceled_at)
  select id, tenant_id, cancel_requested_at, now() from over where canceled order by id
  on conflict (message_id) do update set canceled_at = excluded.canceled_at),
again as (
  update deliveries set state = 1, dispatcher_id = null, active_at = null, due_at = now()
  where id = any(array(select id from lost except select id from over)))
select lost.id, lost.retried, buried.id as dead_letter_id, buried.failed_at, lost.queue_id, lost.seq, lost.flow_key_id
from lost left join buried on buried.message_id = lost.id
