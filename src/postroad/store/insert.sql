-- A group of messages of which some have a deduplication key.
-- $1…$14 as in insert_plain.sql, $15 this dispatcher or null, $16 deduplication keys, $17 the window.
-- The upsert changes nothing unless the key has expired: only so does a loser see the winner's id, also when the
-- winner's transaction committed a moment ago.
with self as materialized (select id from dispatchers where id = $15 and alive_until > now() for key share),
input as materialized (
  select * from unnest($1::uuid[], $2::int[], $3::text[], $4::smallint[], $5::text[], $6::bytea[], $7::text[], $8::text[],
                       $9::text[], $10::uuid[], $11::bigint[], $12::float8[], $13::timestamptz[], $14::boolean[], $16::bytea[])
    with ordinality
    as i(id, tenant_id, url, method, header, body, options, caller_ip, labels, source_id, destination, delay_s, not_before, mine, dedup_key, n)),
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
placed as materialized (
  select o.*, case when mine then (select id from self) end as holder from outcome o where stored_id = id),
stored as (
  insert into messages (id, tenant_id, url, method, header, body, options, caller_ip, labels, source_id)
  select id, tenant_id, url, method, header::jsonb, body, options::jsonb, caller_ip, string_to_array(labels, ','), source_id
  from placed),
sent as (
  insert into deliveries (id, tenant_id, state, due_at, destination, lease, dispatcher_id, active_at, unsettled_claims)
  select id, tenant_id, case when holder is null then 1 else 2 end,
    greatest(now() + make_interval(secs => delay_s), not_before), destination,
    (holder is not null)::int, holder, case when holder is not null then now() end, (holder is not null)::int
  from placed)
select o.stored_id, o.stored_id = o.id as is_new, p.holder is not null as handed_over, now() as created_at
from outcome o left join placed p on p.id = o.id
order by o.n
