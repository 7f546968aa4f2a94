-- $1 queues, locked by an earlier statement of this transaction.
-- A queue is a window over the first places of its unfinished deliveries, as wide as its parallelism, and closed while it is
-- paused. What is held inside is opened; what waits outside is held again. A place that is taken by a message is also
-- taken by its callbacks. Rows that others have locked are left to them: whoever ends or returns a delivery of a queue comes
-- here afterwards.
with places as materialized (
  select q.id as queue_id, q.parallelism, p.seq
  from queues q cross join lateral (
    with recursive place(seq, n) as (
      (select d.seq, 1 from deliveries d where d.queue_id = q.id and d.seq is not null order by d.seq limit 1)
      union all
      select (select d.seq from deliveries d where d.queue_id = q.id and d.seq > place.seq order by d.seq limit 1), place.n + 1
      from place where place.seq is not null and place.n < q.parallelism)
    select place.seq from place where place.seq is not null) p
  where q.id = any($1::bigint[]) and not q.paused),
opening as materialized (
  select d.id, places.parallelism = 1 and d.sub = 0 as fifo
  from places join deliveries d on d.queue_id = places.queue_id and d.seq = places.seq
  where d.state = 0 for update of d skip locked),
closing as materialized (
  select d.id from deliveries d join queues q on q.id = d.queue_id
  where d.queue_id = any($1::bigint[]) and d.state = 1
    and not exists (select from places where places.queue_id = d.queue_id and places.seq = d.seq)
  for update of d skip locked),
closed as (update deliveries set state = 0, fifo = false where id = any(array(select id from closing))),
opened as (
  update deliveries d set state = 1, fifo = d.id = any(array(select id from opening where fifo))
  where d.id = any(array(select id from opening)) and d.state = 0
  returning d.flow_key_id)
select distinct flow_key_id from opened where flow_key_id is not null
