-- $1 dispatcher; $2…$10 arrays, one element a settlement:
-- ids, leases, outcome (0 delivered, 1 retry, 2 failed; 3 lost is written by rescue), delay of the retry in seconds,
-- status, reason, header and body of the response, duration in seconds; $11 the data key that these two are sealed with,
-- or null. Only rows that this dispatcher still holds under that lease come back.
with settlement as materialized (
  select * from unnest($2::uuid[], $3::bigint[], $4::smallint[], $5::float8[], $6::smallint[], $7::text[], $8::text[],
                       $9::bytea[], $10::float8[])
    as s(id, lease, outcome, delay_s, status, reason, header, body, duration_s)),
held as materialized (
  select * from deliveries where id = any($2::uuid[]) and state = 2 and dispatcher_id = $1 order by id for update),
mine as materialized (
  select d.*, make_interval(secs => s.delay_s) as delay, s.status, s.reason, s.header::jsonb as header, s.body,
    make_interval(secs => s.duration_s) as duration,
    case when s.outcome = 2 and d.cancel_requested_at is not null then 1 else s.outcome end as outcome,
    s.outcome = 1 and d.cancel_requested_at is null as again,
    s.outcome <> 0 and d.cancel_requested_at is not null as canceled
  from held d join settlement s on s.id = d.id and s.lease = d.lease),
gone as (delete from deliveries where id = any(array(select id from mine where not again))),
-- By arrays: joined with `mine`, and with fresh statistics, every row would look through all of them.
again as (
  update deliveries d
  set state = 1, dispatcher_id = null, active_at = null, unsettled_claims = 0, retried = d.retried + 1,
    due_at = now() + (array(select delay from mine where again order by id))
                     [array_position(array(select id from mine where again order by id), d.id)]
  where d.id = any(array(select id from mine where again))),
logged as (
  insert into attempts (message_id, tenant_id, lease, retried, active_at, duration, outcome, status, reason, header, body, next_due_at, sealed)
  select id, tenant_id, lease, retried, active_at, duration, outcome, status, reason, header, body,
    case when again then now() + delay end, $11 from mine),
-- An upsert, because the row of a cancellation that this statement has waited for is younger than its snapshot.
canceled as (
  insert into cancellations (message_id, tenant_id, requested_at, canceled_at)
  select id, tenant_id, cancel_requested_at, now() from mine where canceled order by id
  on conflict (message_id) do update set canceled_at = excluded.canceled_at),
buried as (
  insert into dead_letters (tenant_id, message_id, status, reason, header, body, sealed)
  select tenant_id, id, status, reason, header, body, $11 from mine where outcome = 2
  returning id, message_id, failed_at)
select mine.id, mine.canceled, buried.id as dead_letter_id, buried.failed_at, mine.queue_id, mine.seq, mine.flow_key_id
from mine left join buried on buried.message_id = mine.id
