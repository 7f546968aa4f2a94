"""What there is to do so that a server has what is wanted: create, change, delete, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from postroad.cli.as_code import wire
from postroad.cli.as_code.resource import Facts, FlowKey, Kind, Queue, Resource
from postroad.cli.remote import Rejected, Remote, Unreachable, Unsendable

Fact = str | int | bool | None


class Action(StrEnum):
    """What is done about one resource."""

    CREATE = "create"
    CHANGE = "change"
    UNCHANGED = "unchanged"
    KEEP = "keep"
    """It differs, and stays as it is."""
    SKIP = "skip"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """A field that is not what it is to be."""

    field: str
    before: Fact
    after: Fact


@dataclass(frozen=True, slots=True)
class Step:
    """What is done about one resource, and why. One of `wanted` and `present` is there."""

    action: Action
    wanted: Resource | None
    present: Resource | None
    changes: tuple[Change, ...] = ()
    note: str = ""

    @property
    def resource(self) -> Resource:
        """What it is about."""
        resource = self.wanted or self.present
        assert resource is not None
        return resource

    @property
    def is_work(self) -> bool:
        """Whether a server is changed by it."""
        return self.action in (Action.CREATE, Action.CHANGE, Action.DELETE)


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that was not made, or not as a whole, and why; with the error after which nothing more was tried."""

    step: Step
    reason: str
    lost: Unreachable | None = None


def steps(
    wanted: Iterable[Resource],
    present: Mapping[Kind, Mapping[str, Resource]],
    *,
    doomed: Callable[[Resource], bool] = lambda _: False,
    overwrite: bool = True,
) -> list[Step]:
    """The steps in the order in which they can be made; nothing that something else needs is deleted before that.

    Of what is there and not wanted, the `doomed` is deleted. What differs is changed if it may be overwritten.
    """
    wanted = list(wanted)
    made = [_step(one, present[one.kind].get(one.name), overwrite=overwrite) for one in wanted]
    names = {(one.kind, one.name) for one in wanted}
    left = [one for kind in reversed(list(present)) for one in present[kind].values() if (kind, one.name) not in names]
    return made + [Step(Action.DELETE, None, one, note=_loss(one)) for one in left if is_there(one) and doomed(one)]


def make(remote: Remote, planned: Iterable[Step]) -> Iterator[Step | Failure]:
    """Make the steps, and tell of each how it went. After a failure nothing is deleted any more.

    Once the server cannot be reached nothing is tried any more.
    """
    failed = False
    lost: Unreachable | None = None
    for step in planned:
        if not step.is_work:
            continue
        if lost is not None:
            yield Failure(step, "not tried any more", lost)
            continue
        if failed and step.action is Action.DELETE:
            yield Failure(step, "left alone, because something before it failed")
            continue
        try:
            if step.wanted is None:
                wire.remove(remote, step.resource)
            else:
                wire.bring_about(remote, step.wanted, step.present)
        except (Rejected, Unsendable) as error:
            failed = True
            yield Failure(step, str(error))
        except Unreachable as error:  # whether this step was made is not known; another run finds out
            lost = error
            yield Failure(step, str(error), error)
        else:
            yield step


def skipped(resource: Resource, reason: str) -> Step:
    """Nothing is done about this resource, for a reason."""
    return Step(Action.SKIP, resource, None, note=reason)


def is_there(resource: Resource) -> bool:
    """Whether a resource is more than a name: a flow-control key is not, as long as nothing of it is set."""
    return not isinstance(resource, FlowKey) or resource.is_set


def _step(wanted: Resource, present: Resource | None, *, overwrite: bool) -> Step:
    if present is None and not is_there(wanted):
        return Step(Action.UNCHANGED, wanted, present)
    if present is None or (not is_there(present) and is_there(wanted)):
        return Step(Action.CREATE, wanted, present, tuple(_differences({}, wanted.facts())))
    changes = tuple(_differences(present.facts(), wanted.facts()))
    if not changes:
        return Step(Action.UNCHANGED, wanted, present)
    step = Step(Action.CHANGE, wanted, present, changes)
    return step if overwrite else replace(step, action=Action.KEEP, note="it is here and differs")


def _differences(before: Facts, after: Facts) -> Iterator[Change]:
    for name in {**after, **before}:
        old, new = before.get(name), after.get(name)
        if old != new:
            yield Change(name, old, new)


def _loss(resource: Resource) -> str:
    match resource:
        case Queue(lag=lag) if lag:
            return "1 message in it is cancelled" if lag == 1 else f"{lag} messages in it are cancelled"
        case FlowKey():
            return "what is pinned is unpinned, and it is resumed"
        case _:
            return ""
