-- $1 keys a turn
select id from flow_keys
where wake_at <= now() and id in (select id from flow_keys where wake_at <= now() order by wake_at limit $1)
order by tenant_id, key for update
