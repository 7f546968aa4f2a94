-- $1 flow-control keys under which something became due, or a slot free
update flow_keys k set wake_at = least(k.wake_at, now())
from (select id from flow_keys where id = any($1::bigint[]) order by tenant_id, key for update) locked where k.id = locked.id
