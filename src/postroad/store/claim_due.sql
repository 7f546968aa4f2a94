-- $1 dispatcher, $2 free slots
-- Suspects, which have lost two dispatchers, are claimed by claim_suspects.
-- The select is materialized: an UPDATE over a sub-select with LIMIT and SKIP LOCKED may take more rows than the limit.
with self as materialized (select id from dispatchers where id = $1 and alive_until > now() for key share),
due as materialized (
  select id from deliveries
  where state = 1 and flow_key_id is null and due_at <= now() and unsettled_claims < 2 and exists (select from self)
  order by due_at limit $2 for update skip locked)
update deliveries d
set state = 2, dispatcher_id = $1, lease = lease + 1, active_at = now(), unsettled_claims = unsettled_claims + 1
where d.id = any(array(select id from due))
returning d.id, d.lease, d.retried, d.destination, d.queue_id is not null as is_gated
