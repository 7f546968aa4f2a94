-- $1 at most so many. Delayed messages of queues that fall due take their numbers; the queues are released by a later
-- statement. A queue that another transaction has locked is left to a later turn.
with due as materialized (
  select id, queue_id, due_at from deliveries
  where state = 0 and seq is null and due_at <= now() and exists (select from queues q where q.id = queue_id)
  order by due_at limit $1 for update skip locked),
locked as materialized (
  select id, next_seq from queues where id = any(array(select queue_id from due)) order by tenant_id, name for update skip locked),
numbered as materialized (
  select due.id, due.queue_id, row_number() over (partition by due.queue_id order by due.due_at, due.id) as n from due
  join locked on locked.id = due.queue_id),
lanes as (
  update queues q set next_seq = q.next_seq + taken.n
  from (select queue_id, max(n) as n from numbered group by 1) taken
  where q.id = taken.queue_id and q.id = any(array(select id from locked))
  returning q.id, q.next_seq - taken.n as before)
update deliveries d set seq = lanes.before + numbered.n
from numbered join lanes on lanes.id = numbered.queue_id
where d.id = numbered.id and d.id = any(array(select id from numbered))
returning d.queue_id
