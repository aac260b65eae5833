"""Log lines: one record a line, readable on a terminal or JSON, the same words greppable in both.

Every record has a stable `event` (snake_case), a `message` for people, and fields. Addresses and hashes are given
as bytes and written as lower-case 0x text. Signatures and keys are never written: see SECRET_FIELDS.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger, Processor

from payfirst.units import AccountNonce, Address, AtomicAmount, TxHash, hex_text, utc_text

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

SECRET_FIELDS = frozenset(
    {
        "authorization_header",
        "key",
        "mint_key",
        "passphrase",
        "password",
        "private_key",
        "raw",
        "secret",
        "settle_key",
        "signature",
    }
)
REDACTED = "[redacted]"

# Libraries that log by themselves: the database's driver when it connects anew, the loop when nobody awaits a failure.
LIBRARIES = ("asyncpg", "asyncio")
LINES_PER_S_MAX = 100  # of one kind of per-payment line, before they become one counted line a second
FLUSH_INTERVAL_S = 1.0

_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_PLAIN_VALUE = re.compile(r"[^\s\"'=]+")

EventDict = MutableMapping[str, Any]  # structlog's own type


def configure(
    format: LogFormat,  # noqa: A002  # the setting's own name, log.format
    level: LogLevel,
    *,
    stream: TextIO | None = None,
) -> None:
    """Set how this process logs, to `stream` or standard output. `auto` is console, piped or not.

    Emoji are written as UTF-8 whatever the locale says. Loggers bound before keep what was set then.
    """
    out = sys.stdout if stream is None else stream
    reconfigure = getattr(out, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")
    render: Processor = _json_line if format == "json" else _ConsoleLine(colour=out.isatty())
    structlog.configure(
        processors=[_complete, structlog.processors.format_exc_info, _in_text, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(out),
        # Loggers of modules live longer than a configuration, so they look it up; hot ones are bound once.
        cache_logger_on_first_use=False,
    )
    for name in LIBRARIES:
        theirs = logging.getLogger(name)
        theirs.handlers, theirs.propagate = [_FromLibrary()], False


class _FromLibrary(logging.Handler):
    """Hands a library's records to our log, which they would otherwise interrupt with lines of another form."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record. A warning is one line; what went wrong in an error is where its traceback says."""
        is_error = record.levelno >= logging.ERROR
        failure = record.exc_info[1] if record.exc_info else None
        said = record.getMessage() + (f": {type(failure).__name__}: {failure}" if failure is not None else "")
        write = get_logger().error if is_error else get_logger().warning
        write("library", message=said, logger=record.name, exc_info=record.exc_info if is_error else None)


def get_logger(**context: object) -> FilteringBoundLogger:
    """A logger whose records all carry `context`. Without `message=` the event's own words are the message."""
    logger: FilteringBoundLogger = structlog.get_logger(**context)
    return logger


def _complete(_logger: object, method: str, record: EventDict) -> EventDict:
    """Timestamp, level, event and message, in this order, before the fields."""
    event = str(record.pop("event"))
    message = record.pop("message", None)
    head = {
        "timestamp": utc_text(dt.datetime.now(dt.UTC)),
        "level": "error" if method == "exception" else method,
        "event": event,
        "message": event.replace("_", " ") if message is None else str(message),
    }
    # A field never takes the place of the four.
    return head | {f"{name}_" if name in head else name: value for name, value in record.items()}


def _in_text(_logger: object, _method: str, record: EventDict) -> EventDict:
    """Fields as JSON knows them, secrets redacted."""
    return {name: REDACTED if _is_secret(name) else _plain(value) for name, value in record.items()}


def _is_secret(name: object) -> bool:
    return str(name).lower() in SECRET_FIELDS


def _plain(value: object) -> object:
    """A value as JSON knows it: bytes as 0x text, mappings with their own secrets redacted."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return hex_text(bytes(value))
    if isinstance(value, Mapping):
        return {str(name): REDACTED if _is_secret(name) else _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return str(value)


def _json_line(_logger: object, _method: str, record: EventDict) -> str:
    try:
        return msgspec.json.encode(record).decode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, from a payer's text say: slower, but the record is not lost.
        return json.dumps(record)


class _ConsoleLine:
    """`2026-01-01T12:00:00.123Z info  <message>  event=… key=value`, coloured for a terminal only."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def __call__(self, _logger: object, _method: str, record: EventDict) -> str:
        timestamp, level, event = record.pop("timestamp"), record.pop("level"), record.pop("event")
        message, exception = _one_line(record.pop("message")), record.pop("exception", None)
        fields = " ".join(f"{_one_line(name)}={_value(value)}" for name, value in {"event": event, **record}.items())
        level_shown = f"{level:<5}"
        if self._colour:
            timestamp = f"{_DIM}{timestamp}{_RESET}"
            level_shown = f"{_COLOURS.get(level, '')}{level_shown}{_RESET}"
            fields = f"{_DIM}{fields}{_RESET}"
        line = f"{timestamp} {level_shown} {message}  {fields}"
        return line if exception is None else f"{line}\n{exception}"


def _one_line(text: str) -> str:
    """Text that can neither begin another line nor speak to a terminal; emoji stay as they are."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _value(value: object) -> str:
    if isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if isinstance(value, dict | list):
            return _one_line(text)
    if _PLAIN_VALUE.fullmatch(text) and text.isprintable():
        return text
    return _one_line(json.dumps(text, ensure_ascii=False))


# The six lines of the flow.


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted instead of written, one line each."""

    payments: int
    quantity: int
    seconds: float


class RateGate:
    """Decides whether a per-payment line is written or counted. Pure: `now` is monotonic seconds, and passed in.

    It writes until `lines_per_s_max` lines fell into one second, then counts. `flush`, called each second, hands
    over what was counted; when that second had no more than the limit, lines are written again. Every payment is
    either written or in exactly one `Counted`.
    """

    __slots__ = ("_counting", "_in_window", "_limit", "_payments", "_quantity", "_since")

    def __init__(self, *, lines_per_s_max: int = LINES_PER_S_MAX) -> None:
        self._limit = lines_per_s_max
        self._counting = False
        self._since: float | None = None  # the begin of the second that is being counted
        self._in_window = 0
        self._payments = 0
        self._quantity = 0

    def admit(self, *, quantity: int, now: float) -> bool:
        """True: write the line. False: it was counted."""
        if not self._counting:
            if self._since is None or now - self._since >= 1:
                self._since, self._in_window = now, 0
            if self._in_window < self._limit:
                self._in_window += 1
                return True
            self._counting = True
        self._payments += 1
        self._quantity += quantity
        return False

    def flush(self, *, now: float) -> Counted | None:
        """What was counted since the last flush, or None if every line was written."""
        if not self._counting or self._since is None:
            return None
        seconds = now - self._since
        counted = Counted(self._payments, self._quantity, seconds) if self._payments else None
        # Lines written before counting began belong to the same second's rate; less than a second proves no calm.
        self._counting = seconds < 1 or self._payments + self._in_window > self._limit * seconds
        self._since, self._in_window, self._payments, self._quantity = now, 0, 0, 0
        return counted


class FlowLog:
    """The flow's six lines in their known words, with full values in the fields.

    The three lines that come once a payment go through a gate each. Use it from one thread; call `flush` each second
    (`run_flusher`) and once at the end. A shortened id is its first three characters, as operators know the line;
    ids made in the same hours share them, so look for `payment_id`.
    """

    def __init__(
        self,
        logger: FilteringBoundLogger,
        *,
        clock: Callable[[], float] = time.monotonic,
        lines_per_s_max: int = LINES_PER_S_MAX,
    ) -> None:
        # Bound once: a lazy logger would be put together again for each line.
        self._log: FilteringBoundLogger = logger.bind()
        self._clock = clock
        self._queued = RateGate(lines_per_s_max=lines_per_s_max)
        self._sent = RateGate(lines_per_s_max=lines_per_s_max)
        self._minted = RateGate(lines_per_s_max=lines_per_s_max)

    def payment_queued(
        self, *, payment_id: uuid.UUID, quantity: int, payer: Address, amount: AtomicAmount, token: Address
    ) -> None:
        """A payment is stored and was answered with 202."""
        if self._queued.admit(quantity=quantity, now=self._clock()):
            self._log.info(
                "payment_queued",
                message=f"✅ X402 payment queued: {payment_id} "
                f"({quantity}x mint will be created after payment confirms)",
                payment_id=payment_id,
                quantity=quantity,
                payer=payer,
                amount=str(amount),
                token=token,
            )

    def payment_sent(self, *, payment_id: uuid.UUID, account_nonce: AccountNonce, tx_hash: TxHash) -> None:
        """A payment's transaction is stored and was broadcast; under batch settlement many share one."""
        if self._sent.admit(quantity=0, now=self._clock()):
            self._log.info(
                "payment_sent",
                message=f"📤 Sent payment tx: {str(payment_id)[:3]}... "
                f"(nonce: {account_nonce}, tx: {hex_text(tx_hash)[:6]}...)",
                payment_id=payment_id,
                account_nonce=account_nonce,
                tx_hash=tx_hash,
            )

    def batch_complete(self, *, succeeded: int, failed: int = 0, tx_hash: TxHash | None = None) -> None:
        """A batch of payments was handled. `tx_hash` says where: above the gate's limit no other line does."""
        fields = {} if tx_hash is None else {"tx_hash": tx_hash}
        self._log.info(
            "batch_complete",
            message=f"✅ Batch complete: {succeeded} succeeded" + (f", {failed} failed" if failed else ""),
            succeeded=succeeded,
            failed=failed,
            **fields,
        )

    def confirmations_checked(self, *, count: int) -> None:
        """So many payments are sent and looked for on the chain."""
        self._log.info("confirmations_checked", message=f"🔍 Checking {count} pending confirmations...", count=count)

    def payments_confirmed(self, *, count: int) -> None:
        """So many of them were found at depth."""
        self._log.info("payments_confirmed", message=f"   ✅ {count} confirmed", count=count)

    def mints_created(self, *, payment_id: uuid.UUID, quantity: int) -> None:
        """A completed payment has its mint rows."""
        if self._minted.admit(quantity=quantity, now=self._clock()):
            self._log.info(
                "mints_created",
                message=f"✅ Created {quantity}x mint queue items after x402 payment confirmation",
                payment_id=payment_id,
                quantity=quantity,
            )

    def flush(self) -> None:
        """Write what was counted, one line for each kind."""
        now = self._clock()
        if counted := self._queued.flush(now=now):
            self._write_counted(
                "payment_queued",
                f"✅ X402 payment queued: {_payments(counted)} "
                f"({counted.quantity}x mint will be created after payments confirm)",
                counted,
                quantity=counted.quantity,
            )
        if counted := self._sent.flush(now=now):
            self._write_counted("payment_sent", f"📤 Sent payment tx: {_payments(counted)}", counted)
        if counted := self._minted.flush(now=now):
            self._write_counted(
                "mints_created",
                f"✅ Created {counted.quantity}x mint queue items after x402 payment confirmation "
                f"({_payments(counted)})",
                counted,
                quantity=counted.quantity,
            )

    def _write_counted(self, event: str, message: str, counted: Counted, **fields: int) -> None:
        self._log.info(event, message=message, payments=counted.payments, seconds=round(counted.seconds, 3), **fields)


def _payments(counted: Counted) -> str:
    noun = "payment" if counted.payments == 1 else "payments"
    seconds = round(counted.seconds)
    return f"{counted.payments} {noun} in the last " + ("second" if seconds <= 1 else f"{seconds} seconds")


async def run_flusher(log: FlowLog, *, interval_s: float = FLUSH_INTERVAL_S) -> None:
    """Flush each second until cancelled, and once more then, so that nothing counted is lost."""
    try:
        while True:
            await asyncio.sleep(interval_s)
            log.flush()
    finally:
        log.flush()
