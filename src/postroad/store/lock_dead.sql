-- $1 oneself, who cannot be dead; $2 how far a beat reaches; $3 how often there is one.
-- Silence is death only where there are witnesses that one could have beaten: a dispatcher that beat a while after the
-- last beat of the silent one (a beat and a second later, or both may have stopped when the database went away), and at
-- least two beats ago, without a gap between. A dispatcher that died since is as good a witness as a living one.
-- Whoever holds these rows for update keeps a lease from being born for a dispatcher that is declared dead.
select id from dispatchers d
where alive_until < now() and id <> $1 and (alive_until = '-infinity' or exists (
  select from dispatchers w
  where greatest(w.steady_since, d.alive_until - $2::interval + $3::interval + interval '1 s')
        <= least(w.alive_until - $2::interval, now() - 2 * $3::interval)))
order by id for update skip locked
