-- $1 ids, $2 tenant. What is known of each message that is still there, wherever it stands.
-- The last report of each kind is the last entry of an index, however many there are.
-- LATERAL with LIMIT makes every id prune the partitions for itself; no attempt is older than its message.
select m.id, m.tenant_id, m.created_at, m.options ->> 'redact' as redact,
  d.state, d.active_at, c.canceled_at,
  a.outcome, a.reason, a.body, a.sealed, a.ended_at,
  (select count(*) from attempts where message_id = m.id and ended_at >= m.created_at and outcome <> 3) as ended,
  p.progress, n.note, n.sealed as note_sealed, s.result, s.sealed as result_sealed,
  greatest(p.reported_at, n.reported_at, s.reported_at, l.reported_at) as reported_at
from unnest($1::uuid[]) as wanted(id)
cross join lateral (
  select id, tenant_id, created_at, options from messages where messages.id = wanted.id and tenant_id = $2 limit 1) m
left join deliveries d on d.id = m.id
left join cancellations c on c.message_id = m.id
left join lateral (
  select outcome, reason, body, sealed, ended_at from attempts
  where message_id = m.id and ended_at >= m.created_at order by ended_at desc, lease desc limit 1) a on true
left join lateral (
  select progress, reported_at from reports
  where message_id = m.id and reported_at >= m.created_at and progress is not null order by number desc limit 1) p on true
left join lateral (
  select note, sealed, reported_at from reports
  where message_id = m.id and reported_at >= m.created_at and note is not null order by number desc limit 1) n on true
left join lateral (
  select result, sealed, reported_at from reports
  where message_id = m.id and reported_at >= m.created_at and result is not null order by number desc limit 1) s on true
left join lateral (
  select number, reported_at from reports
  where message_id = m.id and reported_at >= m.created_at and log is not null order by number desc limit 1) l on true
