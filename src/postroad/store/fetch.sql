-- $1 ids, $2 bodies above this size stay behind and are fetched one by one when they are sent; $3 is what sealing adds.
-- LATERAL with LIMIT makes every id prune the partitions for itself.
select m.id, m.tenant_id, m.created_at, m.url, m.method, m.header, m.options, m.caller_ip, m.labels, m.source_id,
  m.queue, m.schedule_id, m.url_group, m.sealed,
  case when octet_length(m.body) <= $2::int + case when m.sealed is null then 0 else $3::int end then m.body end as body,
  coalesce(octet_length(m.body), 0) as body_bytes
from unnest($1::uuid[]) as wanted(id)
cross join lateral (select * from messages where messages.id = wanted.id limit 1) m
