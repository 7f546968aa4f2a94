-- $1 keys a turn: those of messages that have lost two dispatchers already and are due, awake or not, as lock_flow does it.
with suspected as materialized (
  select d.flow_key_id from deliveries d join flow_keys k on k.id = d.flow_key_id
  where d.state = 1 and d.unsettled_claims >= 2 and d.due_at <= now() and not k.paused
    and (k.rate is null or k.period_start is null or k.period_start + k.period <= now() or k.period_count < k.rate)
  group by d.flow_key_id order by min(d.due_at) limit $1),
capped as materialized (
  select id from tenants
  where parallelism is not null
    and id = any(array(select tenant_id from flow_keys where id = any(array(select flow_key_id from suspected))))
  order by id for no key update skip locked)
select id from flow_keys
where id = any(array(select flow_key_id from suspected))
  and not exists (
    select from tenants t where t.id = tenant_id and t.parallelism is not null and t.id <> all(array(select id from capped)))
order by tenant_id, key for update skip locked
