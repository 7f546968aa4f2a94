-- $1 tenant, $2 ids. A waiting delivery goes at once; an active one ends with its attempt. What was cancelled before, and
-- is still active, does not count again.
-- The row lock orders this against claim and settle: after the answer no new attempt starts.
with target as materialized (
  select id, state, queue_id from deliveries
  where tenant_id = $1 and id = any($2::uuid[]) and cancel_requested_at is null order by id for update),
gone as (delete from deliveries where id = any(array(select id from target where state <> 2))),
asked as (
  update deliveries set cancel_requested_at = now()
  where id = any(array(select id from target where state = 2))),
logged as (
  insert into cancellations (message_id, tenant_id, canceled_at)
  select id, $1, case when state <> 2 then now() end from target
  on conflict (message_id) do update set canceled_at = coalesce(cancellations.canceled_at, excluded.canceled_at))
select id, queue_id from target
