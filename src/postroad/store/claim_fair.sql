-- $1 dispatcher, $2 free slots, $3 share a turn, $4 saturated destinations, $5 where the rotation stands,
-- $6 destinations a turn. A loose scan over the distinct destinations: no row means that the rotation starts over.
with recursive self as materialized (select id from dispatchers where id = $1 and alive_until > now() for key share),
turn(destination, n) as (
  (select destination, 1 from deliveries where state = 1 and flow_key_id is null and destination > $5
   order by destination limit 1)
  union all
  select (select d.destination from deliveries d
          where d.state = 1 and d.flow_key_id is null and d.destination > t.destination order by d.destination limit 1), n + 1
  from turn t where t.destination is not null and n < $6),
due as materialized (
  select c.id from turn cross join lateral (
    select id from deliveries d
    where d.state = 1 and d.flow_key_id is null and d.destination = turn.destination and d.due_at <= now()
      and d.unsettled_claims < 2
    order by d.due_at limit $3 for update skip locked) c
  where exists (select from self) and turn.destination is not null and turn.destination <> all($4::bigint[]) limit $2),
claimed as (
  update deliveries d
  set state = 2, dispatcher_id = $1, lease = lease + 1, active_at = now(), unsettled_claims = unsettled_claims + 1
  where d.id = any(array(select id from due))
  returning d.id, d.lease, d.retried, d.destination, d.queue_id is not null as is_gated)
select c.id, c.lease, c.retried, c.destination, c.is_gated,
  (select max(destination) from turn) as stands_at, (select count(*) from turn where destination is not null) as seen
from (select 1) as always left join claimed c on true
