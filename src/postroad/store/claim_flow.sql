-- $1 dispatcher, $2 free slots, $3 keys that lock_flow locked in this transaction.
-- Slots are counted, never remembered: nothing can leak. A period begins with its first dispatch. The key sleeps until its
-- window ends, until its next message is due, or, when its slots are full, until a settlement wakes it.
with self as materialized (select id from dispatchers where id = $1 and alive_until > now() for key share),
room as materialized (
  select k.id, k.paused, k.period, k.period_start, coalesce(k.period_start + k.period <= now(), true) as new_period,
    k.parallelism - (select count(*) from deliveries a where a.flow_key_id = k.id and a.state = 2)::int as slots_left,
    k.rate - case when k.period_start + k.period > now() then k.period_count else 0 end as rate_left
  from flow_keys k where k.id = any($3::bigint[])),
due as materialized (
  select d.id, d.flow_key_id from room cross join lateral (
    select id, flow_key_id from deliveries w
    where w.flow_key_id = room.id and w.state = 1 and w.due_at <= now()
    order by w.due_at
    limit case when room.paused or not exists (select from self) then 0
          else greatest(0, least(room.slots_left, room.rate_left, $2::int)) end
    for update skip locked) d
  limit $2::int),
claimed as (
  update deliveries d
  set state = 2, dispatcher_id = $1, lease = lease + 1, active_at = now(), unsettled_claims = unsettled_claims + 1
  where d.id = any(array(select id from due))
  returning d.id, d.lease, d.retried, d.destination),
turned as (
  update flow_keys k set
    period_start = case when room.new_period and t.taken > 0 then now() else k.period_start end,
    period_count = case when not room.new_period then k.period_count + t.taken when t.taken > 0 then t.taken else 0 end,
    wake_at = case
      when room.paused then 'infinity'
      when t.taken >= room.slots_left then 'infinity'
      when t.taken >= room.rate_left then case when room.new_period then now() else room.period_start end + room.period
      when (select count(*) from due) >= $2::int then now()
      else coalesce((select min(w.due_at) from deliveries w where w.flow_key_id = k.id and w.state = 1 and w.due_at > now()), 'infinity')
    end
  from room, lateral (select count(*)::int as taken from due where due.flow_key_id = room.id) t
  where k.id = room.id and exists (select from self))
select id, lease, retried, destination, true as is_gated from claimed
