-- $1 queues. Lock first, look second: whoever opens or closes a queue's window counts in a later statement.
select id from queues where id = any($1::bigint[]) order by tenant_id, name for update
