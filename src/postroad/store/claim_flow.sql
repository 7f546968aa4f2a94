-- $1 dispatcher, $2 free slots, $3 keys that lock_flow locked in this transaction, with their tenants if those have a
-- parallelism, which all keys of the tenant share, the oldest message first. $4 at most so many of one key, $5 destinations
-- that have used up their share: a key whose next message goes to one of them waits for a moment.
-- $6 true for messages that have lost two dispatchers already, which are claimed alone, without waking their key for others.
-- Slots are counted, never remembered: nothing can leak. A period begins with its first dispatch. The key sleeps until its
-- window ends, until its next message is due, or, when its slots are full, until a settlement wakes it; when those of the
-- tenant are full, for a moment.
with self as materialized (select id from dispatchers where id = $1 and alive_until > now() for key share),
-- Not now(): that is from before this transaction waited for the keys, and so from before what others did meanwhile.
moment as materialized (select clock_timestamp() as instant),
room as materialized (
  select k.id, k.tenant_id, k.paused, k.period, k.period_start, coalesce(k.period_start + k.period <= instant, true) as new_period,
    k.parallelism - (select count(*) from deliveries a where a.flow_key_id = k.id and a.state = 2)::int as slots_left,
    k.rate - case when k.period_start + k.period > instant then k.period_count else 0 end as rate_left,
    (select w.destination = any($5::bigint[]) from deliveries w
     where w.flow_key_id = k.id and w.state = 1 and w.due_at <= now() and (w.unsettled_claims >= 2) = $6
     order by w.due_at limit 1) as is_saturated
  from flow_keys k, moment where k.id = any($3::bigint[])),
caps as materialized (
  select t.id, t.parallelism - (
    select count(*) from deliveries a where a.tenant_id = t.id and a.state = 2 and a.dispatcher_id is not null)::int as slots_left
  from tenants t where t.parallelism is not null and t.id = any(array(select tenant_id from room))),
found as materialized (
  select d.id, d.flow_key_id, d.tenant_id, d.due_at, cap.slots_left as cap_left
  from room left join caps cap on cap.id = room.tenant_id cross join lateral (
    select id, flow_key_id, tenant_id, due_at from deliveries w
    where w.flow_key_id = room.id and w.state = 1 and w.due_at <= now() and (w.unsettled_claims >= 2) = $6
    order by w.due_at
    limit case when room.paused or room.is_saturated or not exists (select from self) then 0
          else greatest(0, least(room.slots_left, room.rate_left, cap.slots_left, $2::int, $4::int)) end
    for update skip locked) d
  limit $2::int),
due as materialized (
  select id, flow_key_id, tenant_id from found where cap_left is null
  union all
  select id, flow_key_id, tenant_id
  from (select *, row_number() over (partition by tenant_id order by due_at, id) as n from found where cap_left is not null) f
  where n <= cap_left),
claimed as (
  update deliveries d
  set state = 2, dispatcher_id = $1, lease = lease + 1, active_at = (select instant from moment),
    unsettled_claims = unsettled_claims + 1
  where d.id = any(array(select id from due))
  returning d.id, d.lease, d.retried, d.destination),
turned as (
  update flow_keys k set
    period_start = case when room.new_period and t.taken > 0 then (select instant from moment) else k.period_start end,
    period_count = case when not room.new_period then k.period_count + t.taken when t.taken > 0 then t.taken else 0 end,
    wake_at = case
      when room.paused then 'infinity'
      when t.taken >= room.slots_left then 'infinity'
      when t.taken >= room.rate_left then case when room.new_period then (select instant from moment) else room.period_start end + room.period
      when t.cap_left is not null and t.cap_left <= (select count(*) from due where due.tenant_id = k.tenant_id) then coalesce(
        (select greatest(w.due_at, now() + interval '50 ms') from deliveries w
         where w.flow_key_id = k.id and w.state = 1 and w.unsettled_claims < 2 and w.id <> all(array(select id from due))
         order by w.due_at limit 1),
        'infinity')
      when room.is_saturated then now() + interval '250 ms'
      when t.taken >= $4::int or (select count(*) from found) >= $2::int then now()
      -- Also for what is due and was passed over, because somebody had it locked who may yet leave it as it was.
      else coalesce(
        (select greatest(w.due_at, now() + interval '50 ms') from deliveries w
         where w.flow_key_id = k.id and w.state = 1 and w.unsettled_claims < 2 and w.id <> all(array(select id from due))
         order by w.due_at limit 1),
        'infinity')
    end
  from room left join caps cap on cap.id = room.tenant_id,
    lateral (select count(*)::int as taken, cap.slots_left as cap_left from due where due.flow_key_id = room.id) t
  where k.id = room.id and exists (select from self))
select id, lease, retried, destination, true as is_gated from claimed
