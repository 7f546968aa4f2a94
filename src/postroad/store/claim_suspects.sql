-- $1 dispatcher, $2 how many may travel together. Messages that have lost dispatchers before: some of those that have lost
-- two, or one that has lost more, alone, or whatever is claimed with it would share its fate each time. The oldest decides.
with self as materialized (select id from dispatchers where id = $1 and alive_until > now() for key share),
due as materialized (
  select id, due_at, unsettled_claims from deliveries
  where state = 1 and flow_key_id is null and due_at <= now() and unsettled_claims >= 2 and exists (select from self)
  order by due_at limit $2 for update skip locked),
oldest as materialized (select id, unsettled_claims from due order by due_at, id limit 1)
update deliveries d
set state = 2, dispatcher_id = $1, lease = lease + 1, active_at = now(), unsettled_claims = d.unsettled_claims + 1
where d.id = any(array(
  select due.id from due, oldest
  where due.id = oldest.id or due.unsettled_claims = 2 and oldest.unsettled_claims = 2))
returning d.id, d.lease, d.retried, d.destination, d.queue_id is not null as is_gated
