"""What the database's own facts say: the server, the tables, the processes, and what waits for an operator. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from payfirst.ops.doctor import Finding, fault, ok, warning
from payfirst.ops.performance import judge
from payfirst.store.diagnosis import Debts, HeadFacts, Held, Server
from payfirst.store.performance import Performance
from payfirst.store.processes import Listed
from payfirst.store.signers import ListedSigner
from payfirst.store.treasuries import TreasuryState
from payfirst.units import AtomicAmount, Depth, checksum_address, format_units

VERSION_MIN = 150_000
CONNECTIONS_LEFT_MIN = 20
IDLE_IN_TRANSACTION_S_MAX = 300.0
CLOCK_WARNING_S = 2.0
CLOCK_FAULT_S = 15.0
CURSOR_BEHIND_MAX = 20
# A process that stopped in good order has no row any more; who was killed long ago is history.
FELL_S_MAX = 600.0


def judge_server(server: Server, *, url: str, latency_s: float) -> list[Finding]:
    """Version, durability, connections. `url` is redacted already."""
    check = "database"
    version = f"{server.version // 10_000}.{server.version % 10_000}"
    found = [
        ok(
            check,
            f"PostgreSQL {version} at {url}: {server.connections} of {server.connections_max} connections,"
            f" {server.size_bytes / 1e6:.0f} MB, answers in {latency_s * 1_000:.0f} ms",
        )
    ]
    if server.version < VERSION_MIN:
        found.append(fault(check, f"PostgreSQL {version} is too old", "use PostgreSQL 15 or later"))
    if server.is_standby:
        found.append(
            fault(check, "the server is a standby: nothing can be written", "point DATABASE_URL at the primary")
        )
    if server.settings["fsync"] != "on":
        found.append(
            fault(
                check,
                "fsync is off: a crash of the machine loses payments that were answered with 202",
                "set fsync = on",
            )
        )
    if server.settings["synchronous_commit"] == "off":
        found.append(
            fault(
                check,
                "synchronous_commit is off: a crash loses the last payments that were answered with 202",
                "set synchronous_commit = on, for the server and for payfirst's role",
            )
        )
    if server.settings["full_page_writes"] != "on":
        found.append(warning(check, "full_page_writes is off: a crash may damage tables", "set full_page_writes = on"))
    if server.connections_max - server.connections < CONNECTIONS_LEFT_MIN:
        found.append(
            warning(
                check,
                f"only {server.connections_max - server.connections} connections are left",
                "raise max_connections, or stop what holds them (select * from pg_stat_activity)",
            )
        )
    if (server.idle_in_transaction_s or 0) > IDLE_IN_TRANSACTION_S_MAX:
        found.append(
            warning(
                check,
                f"a connection has held a transaction open for {server.idle_in_transaction_s:.0f} s: tables grow",
                "end it: it is in pg_stat_activity with state 'idle in transaction', and none of payfirst's does that",
            )
        )
    return found


def judge_migrations(current: str | None, known: Sequence[str]) -> list[Finding]:
    """The tables against this release, whose revisions are `known`, the newest first."""
    if current == known[0]:
        return [ok("migrations", f"the tables are this release's ({current})")]
    if current is None:
        return [fault("migrations", "the database has no tables of payfirst", "run payfirst db upgrade")]
    if current in known:
        behind = known.index(current)
        return [fault("migrations", f"the tables are {behind} revisions behind ({current})", "run payfirst db upgrade")]
    return [
        warning(
            "migrations",
            f"the tables are a newer release's ({current}, this one knows up to {known[0]}): this one runs on them",
            "install that release when you can",
        )
    ]


def judge_processes(known: Sequence[Listed], settings: Mapping[str, object]) -> list[Finding]:
    """Who lives, who fell, and who does not go by what the table of settings holds."""
    found: list[Finding] = []
    for role, otherwise in (
        (
            "worker",
            fault("workers", "no worker lives: nothing is settled or minted", "start payfirst work or payfirst up"),
        ),
        ("api", warning("api", "no API process lives: nothing is sold", "start payfirst serve or payfirst up")),
    ):
        living = [process for process in known if process.role == role and process.lives]
        hosts = ", ".join(f"{p.pid} on {p.host}" for p in living)
        check = otherwise.check
        found.append(ok(check, f"{len(living)} live: {hosts}") if living else otherwise)
        fell = [p for p in known if p.role == role and not p.lives and p.silent_s < FELL_S_MAX]
        found += [
            warning(
                check,
                f"{p.role} {p.pid} on {p.host} was last heard of {p.silent_s:.0f} s ago and did not stop in good order",
                "look at its log, and start it again if nothing does",
            )
            for p in fell
        ]
    for process in known:
        refused = process.settings.get("refused", {})
        for setting, expected in refused.items() if process.lives else ():
            found.append(
                warning(
                    "settings",
                    f"{process.role} {process.pid} on {process.host} refuses {setting}: expected {expected}",
                    f"payfirst settings set {setting} to another value, or payfirst settings unset {setting}",
                )
            )
    paused = [setting for setting, value in settings.items() if setting.startswith("pause.") and value is True]
    found += [
        warning(
            "paused",
            f"{setting} is set: "
            + {"pause.accepting": "the API answers 503 to every payment"}.get(setting, "what it names stands still"),
            "payfirst drain --off" if setting == "pause.accepting" else f"payfirst settings unset {setting}",
        )
        for setting in paused
    ]
    return found


def judge_head(head: HeadFacts | None, *, age_s_max: float, confirmations: Depth) -> list[Finding]:
    """What the workers last saw of the chain, and how far they have read it."""
    if head is None:
        return [fault("chain seen", "no worker has ever seen the chain", "start payfirst work, and look at its log")]
    deep = head.height - confirmations + 1 if isinstance(confirmations, int) else head.confirmable
    behind = (head.cursor if deep is None else deep) - head.cursor
    said = f"block {head.height} seen {head.age_s:.0f} s ago, read up to {head.cursor}, final up to {head.final}"
    if head.age_s > age_s_max:
        return [
            fault(
                "chain seen",
                f"{said}: nothing is accepted above {age_s_max:.0f} s",
                "is a worker alive, and does an endpoint of network.rpc_urls answer? (findings above)",
            )
        ]
    if behind > CURSOR_BEHIND_MAX:
        return [
            warning(
                "chain seen",
                f"{said}: {behind} blocks are still to be read",
                "wait while the number falls; if it does not, the worker's log says confirm_postponed and why",
            )
        ]
    return [ok("chain seen", said)]


def judge_work(speed: Performance) -> list[Finding]:
    """The thresholds of `payfirst stats`."""
    advice = "payfirst stats and payfirst top show where; docs/operating.md says what to do"
    return [
        ok("queue", verdict.sentence)
        if verdict.holds
        else warning("queue", verdict.sentence.partition(": ")[0], advice)
        for verdict in judge(speed)
    ]


def judge_held(held: Held) -> list[Finding]:
    """Rows and tokens that stand still until somebody acts."""
    found = [
        warning(
            "held",
            f"token {address} is held: {reason}",
            "mend what its contract says; the next mint that goes through clears it",
        )
        for address, reason in held.tokens
    ]
    if held.payments or held.mints:
        found.append(
            warning(
                "held",
                f"{held.payments} payments and {held.mints} units are held",
                "payfirst payments list --held says why; payfirst payments release lets them go on",
            )
        )
    return found or [ok("held", "nothing is held")]


def judge_owed(debts: Debts) -> list[Finding]:
    """What was paid for and not delivered, or delivered and no longer paid for."""
    if not debts.to_buyers and not debts.to_seller:
        return [ok("owed", "nothing is owed")]
    return [
        warning(
            "owed",
            f"{debts.to_buyers} are owed to buyers and {debts.to_seller} to you, the oldest for"
            f" {debts.oldest_s / 3_600:.1f} h",
            "payfirst owed list; settle them, and note it by payfirst owed resolve",
        )
    ]


def judge_refunds(
    treasuries: Sequence[TreasuryState],
    registered: Sequence[ListedSigner],
    *,
    mode: str,
    owed: AtomicAmount,
    decimals: int,
) -> list[Finding]:
    """Whether what is owed to buyers could be refunded: the treasury that was seen last, and who sends."""
    check = "refunds"
    owed_text = format_units(owed, decimals=decimals)
    if mode == "off":
        return [ok(check, "refunds.mode is off: what is owed stays owed")]
    if not treasuries:
        said = f"refunds.mode is {mode}, and no worker with a treasury's key has run: what is owed stays owed"
        return [warning(check, said, "payfirst signers new --purpose treasury, and start a worker with its key")]
    found: list[Finding] = []
    if not any(s.purpose == "refund" and s.paused_reason is None for s in registered):
        advice = "payfirst signers resume, or signers new --purpose refund"
        found.append(fault(check, "no signer can send refunds", advice))
    treasury = treasuries[0]
    said = (
        f"treasury {checksum_address(treasury.address)} has {format_units(treasury.balance, decimals=decimals)} for"
        f" {owed_text} that is owed to buyers"
    )
    if treasury.balance < owed:
        missing = format_units(AtomicAmount(owed - treasury.balance), decimals=decimals)
        return [*found, warning(check, said, f"send it {missing} more; refunds go on by themselves")]
    return [*found, ok(check, said)]


def judge_clock(check: str, *, ours: float, theirs: float, whose: str) -> list[Finding]:
    """Our clock beside another's, both in Unix seconds at one moment."""
    off = ours - theirs
    said = f"this machine's clock is {abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} {whose}"
    if abs(off) <= CLOCK_WARNING_S:
        return [ok(check, said)]
    advice = "set the clock by NTP (timedatectl): authorizations are judged by it"
    return [(fault if abs(off) > CLOCK_FAULT_S else warning)(check, said, advice)]
