-- $1 oneself, who cannot be dead; $2 only those of whom somebody has said so.
-- Whoever holds these rows for update keeps a lease from being born for a dispatcher that is declared dead.
select id from dispatchers where alive_until < now() and id <> $1 and (not $2 or alive_until = '-infinity') order by id for update skip locked
