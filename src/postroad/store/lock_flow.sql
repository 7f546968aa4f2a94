-- $1 keys a turn. What another transaction has locked is left to a later turn: one that hangs must not stop all claims.
-- A tenant with a parallelism is locked before its keys: only so is what is under way for it counted by one claim at a time.
-- With a key of such a tenant come those that wait for the same room, or whoever looks first would always have it.
with woken as materialized (select id, tenant_id from flow_keys where wake_at <= now() order by wake_at limit $1),
capped as materialized (
  select id from tenants where parallelism is not null and id = any(array(select tenant_id from woken))
  order by id for no key update skip locked),
waiting as materialized (
  select id from flow_keys
  where exists (select from capped) and tenant_id = any(array(select id from capped)) and wake_at <= now() + interval '50 ms'
  order by wake_at limit $1)
select id from flow_keys
where wake_at <= now() + interval '50 ms' and id = any(array(select id from woken union select id from waiting))
  and not exists (
    select from tenants t where t.id = tenant_id and t.parallelism is not null and t.id <> all(array(select id from capped)))
order by tenant_id, key for update skip locked
