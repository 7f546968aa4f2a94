-- $1 oneself, who cannot be dead.
-- Whoever holds these rows for update keeps a lease from being born for a dispatcher that is declared dead.
select id from dispatchers where alive_until < now() and id <> $1 order by id for update skip locked
