-- A group of messages of which some have a deduplication key, a queue, a flow-control key or an origin.
-- $1…$14 as in insert_plain.sql, $15 this dispatcher or null, $16 deduplication keys, $17 the window, $18 queues by name,
-- $19…$22 flow-control keys with parallelism, rate and period in seconds, $23 URL groups, $24 schedules; $25 and $26: for a
-- callback of a queued message, its queue and the place in it that the two share; $27 the data key, as $16 there.
-- The upsert of a deduplication key changes nothing unless the key has expired: only so does a loser see the winner's
-- id, also when the winner's transaction committed a moment ago. The upsert of a queue takes its lock and the next numbers,
-- so that they ascend in the order of the commits; what is delayed takes its number when it falls due. The upsert of a
-- flow-control key always sets wake_at, so that a claim that has just found nothing under it cannot put it to sleep.
-- Messages without a key of a tenant that has a parallelism go under the key '', which nobody can name.
with self as materialized (select id from dispatchers where id = $15 and alive_until > now() for key share),
input as materialized (
  select *, greatest(make_interval(secs => delay_s), not_before - now()) > interval '0' as delayed
  from unnest($1::uuid[], $2::int[], $3::text[], $4::smallint[], $5::text[], $6::bytea[], $7::text[], $8::text[],
              $9::text[], $10::uuid[], $11::bigint[], $12::float8[], $13::timestamptz[], $14::boolean[], $16::bytea[],
              $18::text[], $19::text[], $20::int[], $21::int[], $22::float8[], $23::text[], $24::text[], $25::bigint[], $26::bigint[])
    with ordinality
    as i(id, tenant_id, url, method, header, body, options, caller_ip, labels, source_id, destination, delay_s, not_before, mine, dedup_key,
         queue, flow_key, parallelism, rate, period_s, url_group, schedule_id, place_queue_id, place_seq, n)),
claimed_keys as (
  insert into deduplications as d (tenant_id, key, message_id, expires_at)
  select tenant_id, dedup_key, id, now() + $17::interval from input where dedup_key is not null order by tenant_id, dedup_key
  on conflict (tenant_id, key) do update set
    message_id = case when d.expires_at <= now() then excluded.message_id else d.message_id end,
    expires_at = case when d.expires_at <= now() then excluded.expires_at else d.expires_at end
  returning tenant_id, key, message_id),
outcome as materialized (
  select i.*, coalesce(k.message_id, i.id) as stored_id from input i
  left join claimed_keys k on k.tenant_id = i.tenant_id and k.key = i.dedup_key),
fresh as materialized (
  select o.*, coalesce(o.flow_key, every.key) as gate
  from outcome o left join flow_keys every on every.tenant_id = o.tenant_id and every.key = '' and every.parallelism_pinned
  where o.stored_id = o.id),
lanes as (
  insert into queues as q (tenant_id, name, next_seq)
  select tenant_id, queue, count(*) filter (where not delayed) from fresh where queue is not null group by 1, 2 order by 1, 2
  on conflict (tenant_id, name) do update set next_seq = q.next_seq + excluded.next_seq
  returning id, tenant_id, name, next_seq),
keys as (
  insert into flow_keys as k (tenant_id, key, parallelism, rate, period, wake_at)
  select tenant_id, gate, parallelism, rate, coalesce(make_interval(secs => period_s), interval '1 s'), now() from (
    select distinct on (tenant_id, gate) * from fresh
    where gate is not null and (select count(*) from lanes) >= 0 order by tenant_id, gate, n desc) latest
  order by tenant_id, gate
  on conflict (tenant_id, key) do update set
    parallelism = case when k.parallelism_pinned then k.parallelism else excluded.parallelism end,
    rate = case when k.rate_pinned then k.rate else excluded.rate end,
    period = case when k.rate_pinned then k.period else excluded.period end,
    wake_at = least(k.wake_at, now()), used_at = now()
  returning id, tenant_id, key),
placed as materialized (
  select f.*, coalesce(place_queue_id, l.id) as queue_id, k.id as flow_key_id, (place_queue_id is not null)::int as sub,
    case when mine and place_queue_id is null and l.id is null and k.id is null then (select id from self) end as holder,
    case
      when place_queue_id is not null then place_seq
      when l.id is not null and not f.delayed
      then l.next_seq - count(*) filter (where not f.delayed) over w + count(*) filter (where not f.delayed) over (w order by f.n)
    end as seq
  from fresh f
  left join lanes l on l.tenant_id = f.tenant_id and l.name = f.queue
  left join keys k on k.tenant_id = f.tenant_id and k.key = f.gate
  window w as (partition by f.tenant_id, f.queue)),
stored as (
  insert into messages (id, tenant_id, url, method, header, body, options, caller_ip, labels, source_id,
                        queue, flow_key, schedule_id, url_group, sealed)
  select id, tenant_id, url, method, header::jsonb, body, options::jsonb, caller_ip, string_to_array(labels, ','), source_id,
    queue, flow_key, schedule_id, url_group, $27
  from placed),
sent as (
  insert into deliveries (id, tenant_id, state, due_at, destination, lease, dispatcher_id, active_at, unsettled_claims,
                          queue_id, seq, sub, flow_key_id)
  select id, tenant_id, case when holder is not null then 2 when sub = 0 and queue_id is not null then 0 else 1 end,
    greatest(now() + make_interval(secs => delay_s), not_before), destination,
    (holder is not null)::int, holder, case when holder is not null then now() end, (holder is not null)::int,
    queue_id, seq, sub, flow_key_id
  from placed)
select o.stored_id, o.stored_id = o.id as is_new, p.holder is not null as handed_over, now() as created_at,
  case when p.sub = 0 then p.queue_id end as queue_id
from outcome o left join placed p on p.id = o.id
order by o.n
