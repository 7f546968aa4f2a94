-- A group of messages of which none has a deduplication key.
-- $1…$14 arrays, one element a message; $15 this dispatcher, or null; $16 the data key that header, body and
-- callbacks are sealed with, or null.
-- A row is handed over (inserted as leased) only while the dispatcher is alive by the clock of the database, and then
-- every row is that asked for it: so the answer is one row for the whole group.
-- Nothing is stored if one of the tenants has a parallelism: its messages wait under its key '', which insert.sql gives.
with self as materialized (select id from dispatchers where id = $15 and alive_until > now() for key share),
input as materialized (
  select i.*, case when mine then (select id from self) end as holder
  from unnest($1::uuid[], $2::int[], $3::text[], $4::smallint[], $5::text[], $6::bytea[], $7::text[], $8::text[],
              $9::text[], $10::uuid[], $11::bigint[], $12::float8[], $13::timestamptz[], $14::boolean[])
    as i(id, tenant_id, url, method, header, body, options, caller_ip, labels, source_id, destination, delay_s, not_before, mine)
  where not exists (select from flow_keys where key = '' and parallelism_pinned and tenant_id = any($2::int[]))),
stored as (
  insert into messages (id, tenant_id, url, method, header, body, options, caller_ip, labels, source_id, sealed)
  select id, tenant_id, url, method, header::jsonb, body, options::jsonb, caller_ip, string_to_array(labels, ','), source_id, $16
  from input),
sent as (
  insert into deliveries (id, tenant_id, state, due_at, destination, lease, dispatcher_id, active_at, unsettled_claims)
  select id, tenant_id, case when holder is null then 1 else 2 end,
    greatest(now() + make_interval(secs => delay_s), not_before), destination,
    (holder is not null)::int, holder, case when holder is not null then now() end, (holder is not null)::int
  from input)
select now() as created_at, exists (select from self) as handed_over, not exists (select from input) as is_capped
