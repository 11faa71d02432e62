"""Lagged copies: played down, made to lag again, and activated after they replayed all (spec 2.9)."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from everpost.errors import Refused, Unavailable
from everpost.manage.cmdlets.copies import change_copy, until_state
from everpost.manage.context import CommandContext
from everpost.model.database import CopyState, LocationState, MailboxDatabase

REPLAY_WAIT = 3600.0
"""Seconds a move waits until a lagged copy has replayed what it has: up to 14 days of mail."""
IDLE_WAIT = 60.0
"""Seconds without any progress after which a copy that replays up to a time has no more log."""


async def play_down(context: CommandContext, found: MailboxDatabase, server: str, reason: str) -> None:
    """The copy replays what it has and keeps up, though its ReplayLagTime stays as it is. Raises Refused if it has
    none."""
    settings = found.copy(server)
    name = f"{found.name}\\{server}"
    if settings.replay_lag <= 0:
        raise Refused(f"{name} has no ReplayLagTime.", remedy="Get-MailboxDatabaseCopyStatus shows which copies do.")
    if settings.lag_disabled == reason:
        context.warning(f"{name} is played down already.")
        return
    await change_copy(context, found, server, replace(settings, lag_disabled=reason))


async def lag_again(context: CommandContext, found: MailboxDatabase, server: str) -> None:
    """The end of a play-down: what comes from now on waits for its time again."""
    settings = found.copy(server)
    if not settings.lag_disabled:
        context.warning(f"The replay lag of {found.name}\\{server} is not disabled.")
        return
    await change_copy(context, found, server, replace(settings, lag_disabled=""))


def moment(text: str) -> float:
    """A time in ISO 8601, with its zone, in Unix seconds. Raises Refused."""
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Refused(f"{text} is no time with its zone.", remedy="Write it as 2026-01-31T09:30:00Z.")
    return found.timestamp()


def iso(seconds: float) -> str:
    """Unix seconds as a time in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def may_stand(context: CommandContext, found: MailboxDatabase, server: str, until: float) -> None:
    """Whether the copy can come to stand at that time. Raises Refused if it has replayed more."""
    settings = found.copy(server)
    name = f"{found.name}\\{server}"
    now = context.clock.wall().timestamp()
    if settings.lag <= 0 or any(one.server == server for one in context.organization.locations[found.name][0].set):
        raise Refused(f"{name} does not lag: it has replayed all.", remedy="Only a lagged copy can stand in the past.")
    stands = settings.replay_to if settings.suspended else None
    if stands is not None and until < stands:
        raise Refused(f"{name} stands at {iso(stands)}, and cannot go back.", remedy="Name a later time.")
    if until > now or (stands is None and until <= now - settings.lag):
        raise Refused(
            f"{name} has replayed up to {iso(now - settings.lag)}.", remedy="Name a time between then and now."
        )


async def stand_at(context: CommandContext, found: MailboxDatabase, server: str, text: str) -> None:
    """The copy replays up to a time that lies within its lag, and stands there. Raises Refused if it does not."""
    settings, until = found.copy(server), moment(text)
    may_stand(context, found, server, until)
    name = f"{found.name}\\{server}"
    comment = f"stands at {text}; Resume-MailboxDatabaseCopy lets it go on"
    after = replace(settings, suspended=True, suspend_comment=comment, replay_to=until)
    await change_copy(context, found, server, after)
    await until_state(context, found, server, CopyState.SUSPENDED)
    context.warning(
        f"{name} {comment}. It can be read on {server} by psql or pg_dump on its socket;"
        f" Move-ActiveMailboxDatabase {found.name} -ActivateOnServer {server} -ReplayToTime {text} opens it as it is."
    )


async def replay_all(context: CommandContext, found: MailboxDatabase, server: str) -> MailboxDatabase:
    """Before a lagged copy is activated: play it down, and wait until it has everything and is in the synchronous set.
    Raises Unavailable, with the lag as it was."""
    name = f"{found.name}\\{server}"
    await play_down(context, found, server, f"it is to be activated by {context.operator}")
    context.verbose(f"{name} replays what it has kept back.")
    end, said = context.clock.boottime() + REPLAY_WAIT, 0.0
    while True:
        location = context.organization.locations[found.name][0]
        if any(member.server == server for member in location.set):
            return context.organization.databases[found.name]
        now = context.clock.boottime()
        if location.state is not LocationState.OPEN or not context.live.holds_tenure(server) or now > end:
            await lag_again(context, context.organization.databases[found.name], server)
            raise Unavailable(
                f"{name} did not come into the synchronous set.",
                remedy="See Get-MailboxDatabaseCopyStatus, and repeat.",
            )
        status = context.live.statuses(server).get(found.name)
        if status is not None and status.replay_queue and now - said >= 10.0:
            said = now
            context.verbose(f"{name}: {status.replay_queue} logs are left to replay.")
        await context.clock.sleep(0.1)
