"""Log lines: the known words, greppable in both formats, no secret, and one counted line a second under load."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import tracemalloc
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from payfirst.ops.log import (
    LIBRARIES,
    SECRET_FIELDS,
    Counted,
    FlowLog,
    LogFormat,
    LogLevel,
    RateGate,
    configure,
    get_logger,
    run_flusher,
)
from payfirst.units import AccountNonce, Address, AtomicAmount, TxHash

PAYMENT_ID = uuid.UUID("0190a1b2-c3d4-7e5f-8a6b-1234567890ab")
PAYER = Address(bytes.fromhex("aB" * 20))
TOKEN = Address(bytes.fromhex("c0" * 20))
TX_HASH = TxHash(bytes.fromhex("1234" + "56" * 30))

SEED_LINES = {
    "payment_queued": f"✅ X402 payment queued: {PAYMENT_ID} (10x mint will be created after payment confirms)",
    "payment_sent": "📤 Sent payment tx: 019... (nonce: 123, tx: 0x1234...)",
    "batch_complete": "✅ Batch complete: 50 succeeded",
    "confirmations_checked": "🔍 Checking 20 pending confirmations...",
    "payments_confirmed": "   ✅ 18 confirmed",
    "mints_created": "✅ Created 10x mint queue items after x402 payment confirmation",
}


@pytest.fixture(autouse=True)
def _structlog_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class Clock:
    """Monotonic seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def json_log(level: LogLevel = "info", **context: object) -> tuple[structlog.typing.FilteringBoundLogger, io.StringIO]:
    stream = io.StringIO()
    configure("json", level, stream=stream)
    return get_logger(**context), stream


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def write_six_lines(flow: FlowLog) -> None:
    flow.payment_queued(payment_id=PAYMENT_ID, quantity=10, payer=PAYER, amount=AtomicAmount(100_000), token=TOKEN)
    flow.payment_sent(payment_id=PAYMENT_ID, account_nonce=AccountNonce(123), tx_hash=TX_HASH)
    flow.batch_complete(succeeded=50)
    flow.confirmations_checked(count=20)
    flow.payments_confirmed(count=18)
    flow.mints_created(payment_id=PAYMENT_ID, quantity=10)


# Records.


def test_json_record_has_the_four_and_then_its_fields() -> None:
    """Timestamp, level, event, message, context, fields: one object a line."""
    log, stream = json_log(worker="w1")
    log.warning("endpoint_slow", message="The endpoint is slow", seconds=1.5)
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert list(record) == ["timestamp", "level", "event", "message", "worker", "seconds"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    assert record == {
        "level": "warning",
        "event": "endpoint_slow",
        "message": "The endpoint is slow",
        "worker": "w1",
        "seconds": 1.5,
    }


def test_record_without_a_message_says_its_event() -> None:
    """Every record has a message for people."""
    log, stream = json_log()
    log.info("worker_started")
    assert records(stream)[0]["message"] == "worker started"


def test_field_does_not_take_the_place_of_the_four() -> None:
    """A field named like one of them keeps its value under another name."""
    log, stream = json_log()
    log.info("started", level="high", timestamp=1)
    record = records(stream)[0]
    assert (record["level"], record["level_"], record["timestamp_"]) == ("info", "high", 1)


def test_level_below_the_configured_one_is_not_written() -> None:
    """debug is silent at info, and written at debug."""
    log, stream = json_log()
    log.debug("detail")
    assert stream.getvalue() == ""
    log, stream = json_log("debug")
    log.debug("detail")
    assert records(stream)[0]["level"] == "debug"


def test_values_are_written_as_text_and_numbers() -> None:
    """Bytes as lower-case 0x text, ids as text, integers of any width as integers."""
    log, stream = json_log()
    log.info("values", payer=PAYER, payment_id=PAYMENT_ID, wide=2**255, nothing=None, items=(TX_HASH, {"a": PAYER}))
    record = records(stream)[0]
    assert record["payer"] == "0x" + "ab" * 20
    assert record["payment_id"] == str(PAYMENT_ID)
    assert record["wide"] == 2**255
    assert record["nothing"] is None
    assert record["items"] == ["0x1234" + "56" * 30, {"a": "0x" + "ab" * 20}]


def test_half_a_surrogate_pair_loses_no_record() -> None:
    """Text that is no Unicode is still one line in both formats."""
    log, stream = json_log()
    log.info("odd", text="\ud83d")
    assert records(stream)[0]["text"] == "\ud83d"
    stream = io.StringIO()
    configure("console", "info", stream=stream)
    get_logger().info("odd", message="\ud83d", text="\ud83d")
    assert stream.getvalue().encode()


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("name", [*sorted(SECRET_FIELDS), "Signature", "PRIVATE_KEY"])
def test_secret_fields_are_redacted_at_any_depth(form: LogFormat, name: str) -> None:
    """Neither as a field, nor in the context, nor inside another field; what stands beside them stays."""
    stream = io.StringIO()
    configure(form, "info", stream=stream)
    get_logger(**{name: "hunter2"}).info("first", payer=PAYER)
    get_logger().info("second", **{name: b"hunter2"}, request={"headers": [{name: "hunter2", "kept": "kept"}]})
    text = stream.getvalue()
    assert "hunter2" not in text
    assert b"hunter2".hex() not in text
    assert text.count("[redacted]") == 3
    assert "0x" + "ab" * 20 in text
    assert "kept" in text


def test_exception_is_written_with_its_traceback_and_without_locals() -> None:
    """The traceback says where, never what a variable held."""
    log, stream = json_log()
    held = "hunter2"
    try:
        raise RuntimeError("no answer")
    except RuntimeError:
        log.exception("call_failed")
    record = records(stream)[0]
    assert (record["level"], record["event"]) == ("error", "call_failed")
    assert "RuntimeError: no answer" in record["exception"]
    assert held not in record["exception"]


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_a_library_logs_is_a_record_like_any_other(name: str) -> None:
    """A warning in one line, an error with its traceback; nothing goes past the log in a form of its own."""
    _, stream = json_log()
    try:
        raise ConnectionError("the server is away")
    except ConnectionError:
        logging.getLogger(name).warning("Cannot connect; retrying", exc_info=True)
        logging.getLogger(name).error("Never awaited", exc_info=True)
    logging.getLogger(name).debug("nobody wants to know")
    warned, failed = records(stream)
    assert (warned["level"], warned["event"], warned["logger"]) == ("warning", "library", name)
    assert warned["message"] == "Cannot connect; retrying: ConnectionError: the server is away"
    assert warned.get("exception") is None
    assert (failed["level"], "ConnectionError" in failed["exception"]) == ("error", True)


def test_console_line_reads_time_level_message_and_fields() -> None:
    """One line, with the event among the fields, so both formats are greppable by it."""
    stream = io.StringIO()
    configure("console", "info", stream=stream)
    get_logger(worker="w1").info("started", message="Up 🚀", port=4021, path="a b", empty="", flag=True)
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info  Up 🚀  event=started worker=w1 port=4021 path="a b" empty="" '
        r"flag=true\n",
        stream.getvalue(),
    )


def test_console_line_stays_one_line_and_quiet_to_the_terminal() -> None:
    """A value cannot begin a line of its own, nor send control characters."""
    stream = io.StringIO()
    configure("console", "info", stream=stream)
    get_logger().info("odd", message="a\nb\x1b[31m", text="c\r\nd\x9b31m\u2028", table={"k\n": "\x1b"})
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()


def test_console_shows_a_traceback_below_its_line() -> None:
    """People read a traceback in lines."""
    stream = io.StringIO()
    configure("console", "info", stream=stream)
    try:
        raise RuntimeError("no answer")
    except RuntimeError:
        get_logger().exception("call_failed")
    lines = stream.getvalue().splitlines()
    assert "event=call_failed" in lines[0]
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "RuntimeError: no answer"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_only() -> None:
    """A terminal gets colour, and the words are the same; a pipe and JSON get none."""
    shown = {}
    for name, stream, form in (
        ("tty", Terminal(), "auto"),
        ("pipe", io.StringIO(), "auto"),
        ("json", Terminal(), "json"),
    ):
        configure(form, "info", stream=stream)  # type: ignore[arg-type]  # the tuple widens the literals
        get_logger().info("started", message="Up")
        shown[name] = stream.getvalue()
    assert "\x1b[" in shown["tty"]
    assert "Up" in shown["tty"]
    assert "\x1b" not in shown["pipe"]
    assert json.loads(shown["json"])["message"] == "Up"


@pytest.mark.parametrize(("form", "is_json"), [("auto", False), ("console", False), ("json", True)])
def test_format(form: LogFormat, is_json: bool) -> None:
    """`auto` is readable when piped too; JSON only when asked for."""
    stream = io.StringIO()
    configure(form, "info", stream=stream)
    get_logger().info("started")
    assert stream.getvalue().startswith("{") is is_json


# The six lines.


def test_six_lines_have_the_known_words() -> None:
    """Exact messages, emoji and leading spaces included, each under its event."""
    log, stream = json_log()
    write_six_lines(FlowLog(log))
    assert {record["event"]: record["message"] for record in records(stream)} == SEED_LINES


def test_six_lines_hold_full_values_in_their_fields() -> None:
    """What the words shorten stands whole beside them."""
    log, stream = json_log()
    write_six_lines(FlowLog(log))
    fields = {
        record["event"]: {k: v for k, v in record.items() if k not in ("timestamp", "level", "event", "message")}
        for record in records(stream)
    }
    payer, token, tx_hash = ("0x" + data.hex() for data in (PAYER, TOKEN, TX_HASH))
    assert fields == {
        "payment_queued": {
            "payment_id": str(PAYMENT_ID), "quantity": 10, "payer": payer, "amount": "100000", "token": token,
        },
        "payment_sent": {"payment_id": str(PAYMENT_ID), "account_nonce": 123, "tx_hash": tx_hash},
        "batch_complete": {"succeeded": 50, "failed": 0},
        "confirmations_checked": {"count": 20},
        "payments_confirmed": {"count": 18},
        "mints_created": {"payment_id": str(PAYMENT_ID), "quantity": 10},
    }  # fmt: skip


def test_batch_says_failures_only_when_there_are_some() -> None:
    """`, 2 failed` is appended, and nothing for none."""
    log, stream = json_log()
    flow = FlowLog(log)
    flow.batch_complete(succeeded=50, failed=2, tx_hash=TX_HASH)
    flow.batch_complete(succeeded=1, failed=0)
    first, second = records(stream)
    assert first["message"] == "✅ Batch complete: 50 succeeded, 2 failed"
    assert first["tx_hash"] == "0x" + TX_HASH.hex()
    assert second["message"] == "✅ Batch complete: 1 succeeded"
    assert "tx_hash" not in second


@pytest.mark.parametrize("form", ["auto", "json"])
def test_six_lines_are_found_in_piped_output_whatever_the_locale(form: str) -> None:
    """A process whose locale knows no emoji writes them to a pipe as UTF-8 all the same."""
    program = (
        "import uuid; from payfirst.ops.log import *\n"
        f"configure({form!r}, 'info'); flow = FlowLog(get_logger())\n"
        f"i = uuid.UUID({str(PAYMENT_ID)!r})\n"
        "flow.payment_queued(payment_id=i, quantity=10, payer=bytes(20), amount=1, token=bytes(20))\n"
        f"flow.payment_sent(payment_id=i, account_nonce=123, tx_hash=bytes.fromhex({TX_HASH.hex()!r}))\n"
        "flow.batch_complete(succeeded=50); flow.confirmations_checked(count=20); flow.payments_confirmed(count=18)\n"
        "flow.mints_created(payment_id=i, quantity=10)\n"
    )
    environ = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, check=True, timeout=60)
    lines = done.stdout.decode("utf-8").splitlines()
    assert len(lines) == 6
    for line, (event, message) in zip(lines, SEED_LINES.items(), strict=True):
        assert message in line
        assert event in line


# The gate.


def test_gate_writes_up_to_its_limit_then_counts() -> None:
    """The hundredth line of a second is written, the next one is counted."""
    gate = RateGate()
    assert [gate.admit(quantity=1, now=0.5) for _ in range(101)] == [True] * 100 + [False]
    assert gate.flush(now=1.0) == Counted(payments=1, quantity=1, seconds=0.5)


def test_gate_below_its_limit_always_writes() -> None:
    """A hundred a second for a minute, and nothing is counted."""
    gate = RateGate()
    for second in range(60):
        assert all(gate.admit(quantity=1, now=second + step / 100) for step in range(100))
        assert gate.flush(now=second + 0.999) is None


def test_gate_under_load_writes_nothing_but_the_counted_line() -> None:
    """From the second second on each payment is counted, and each flush hands over one second's."""
    gate = RateGate()
    for _ in range(500):
        gate.admit(quantity=2, now=0.0)
    gate.flush(now=1.0)
    for second in (1, 2, 3):
        assert not any(gate.admit(quantity=2, now=second + step / 500) for step in range(500))
        assert gate.flush(now=second + 1.0) == Counted(payments=500, quantity=1_000, seconds=1.0)


def test_gate_writes_again_after_a_calm_second() -> None:
    """A second at the limit ends the counting; one above it does not."""
    gate = RateGate()
    for _ in range(500):
        gate.admit(quantity=1, now=0.0)
    gate.flush(now=1.0)
    for _ in range(101):
        assert not gate.admit(quantity=1, now=1.5)
    gate.flush(now=2.0)
    for _ in range(100):
        assert not gate.admit(quantity=1, now=2.5)
    assert gate.flush(now=3.0) == Counted(payments=100, quantity=100, seconds=1.0)
    assert gate.admit(quantity=1, now=3.1)


def test_gate_flushed_too_soon_takes_that_for_no_calm() -> None:
    """A flush in the middle of a second hands over what there is and goes on counting."""
    gate = RateGate()
    for _ in range(150):
        gate.admit(quantity=1, now=0.0)
    assert gate.flush(now=0.1) == Counted(payments=50, quantity=50, seconds=0.1)
    assert not gate.admit(quantity=1, now=0.2)


def test_gate_judges_a_late_flush_by_the_seconds_it_covers() -> None:
    """After a flush that came late, 250 in 3 s are a calm rate and 350 are not."""
    for payments, written in ((250, True), (350, False)):
        gate = RateGate()
        for _ in range(101):
            gate.admit(quantity=1, now=0.0)
        gate.flush(now=1.0)
        for _ in range(payments):
            gate.admit(quantity=1, now=2.0)
        assert gate.flush(now=4.0) == Counted(payments=payments, quantity=payments, seconds=3.0)
        assert gate.admit(quantity=1, now=4.1) is written


def test_gate_without_payments_hands_over_nothing() -> None:
    """No line for a second in which nothing was counted."""
    gate = RateGate()
    assert gate.flush(now=1.0) is None
    for _ in range(101):
        gate.admit(quantity=1, now=1.0)
    assert gate.flush(now=2.0) is not None
    assert gate.flush(now=3.0) is None


def test_written_and_counted_lines_add_up() -> None:
    """Whatever the rate does, each payment and each unit is in exactly one line."""
    log, stream = json_log()
    clock = Clock()
    flow = FlowLog(log, clock=clock)
    payments = units = 0
    for rate in (1, 99, 100, 101, 2_345, 7, 150, 0, 0, 300, 40):
        for index in range(rate):
            quantity = index % 10 + 1
            flow.payment_queued(
                payment_id=PAYMENT_ID, quantity=quantity, payer=PAYER, amount=AtomicAmount(1), token=TOKEN
            )
            flow.payment_sent(payment_id=PAYMENT_ID, account_nonce=AccountNonce(1), tx_hash=TX_HASH)
            flow.mints_created(payment_id=PAYMENT_ID, quantity=quantity)
            clock.now += 1 / rate
            payments, units = payments + 1, units + quantity
        clock.now += 0 if rate else 1
        flow.flush()
    for event in ("payment_queued", "payment_sent", "mints_created"):
        lines = [record for record in records(stream) if record["event"] == event]
        assert sum(line.get("payments", 1) for line in lines) == payments
        assert len(lines) < payments / 4
        if event != "payment_sent":
            assert sum(line["quantity"] for line in lines) == units


def test_counted_lines_begin_with_the_known_words() -> None:
    """Whoever greps for the one finds the other."""
    log, stream = json_log()
    clock = Clock()
    flow = FlowLog(log, clock=clock, lines_per_s_max=0)
    for quantity in (4, 5):
        flow.payment_queued(payment_id=PAYMENT_ID, quantity=quantity, payer=PAYER, amount=AtomicAmount(1), token=TOKEN)
        flow.payment_sent(payment_id=PAYMENT_ID, account_nonce=AccountNonce(1), tx_hash=TX_HASH)
        flow.mints_created(payment_id=PAYMENT_ID, quantity=quantity)
    assert stream.getvalue() == ""
    clock.now += 1
    flow.flush()
    assert [record["message"] for record in records(stream)] == [
        "✅ X402 payment queued: 2 payments in the last second (9x mint will be created after payments confirm)",
        "📤 Sent payment tx: 2 payments in the last second",
        "✅ Created 9x mint queue items after x402 payment confirmation (2 payments in the last second)",
    ]
    assert records(stream)[0] | {"payments": 2, "quantity": 9, "seconds": 1.0} == records(stream)[0]


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "second"), (1.4, "second"), (3.0, "3 seconds")])
def test_counted_line_says_how_long_it_counted(seconds: float, words: str) -> None:
    """A flush that came late is not called the last second; one payment is not called payments."""
    log, stream = json_log()
    clock = Clock()
    flow = FlowLog(log, clock=clock, lines_per_s_max=0)
    flow.payment_sent(payment_id=PAYMENT_ID, account_nonce=AccountNonce(1), tx_hash=TX_HASH)
    clock.now += seconds
    flow.flush()
    assert records(stream)[0]["message"] == f"📤 Sent payment tx: 1 payment in the last {words}"


def test_busy_kind_of_line_does_not_silence_the_others() -> None:
    """Each kind has its own gate, and the lines that come once a batch have none."""
    log, stream = json_log()
    flow = FlowLog(log, clock=Clock())
    for _ in range(200):
        flow.payment_queued(payment_id=PAYMENT_ID, quantity=1, payer=PAYER, amount=AtomicAmount(1), token=TOKEN)
        flow.payments_confirmed(count=1)
    flow.mints_created(payment_id=PAYMENT_ID, quantity=1)
    events = [record["event"] for record in records(stream)]
    assert (events.count("payment_queued"), events.count("payments_confirmed")) == (100, 200)
    assert events.count("mints_created") == 1


class AnnouncingStream(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


async def test_flusher_writes_while_it_runs_and_once_more_when_cancelled() -> None:
    """What was counted appears without another payment, and what is left at the end too."""
    stream = AnnouncingStream()
    configure("json", "info", stream=stream)
    flow = FlowLog(get_logger(), lines_per_s_max=0)
    flusher = asyncio.create_task(run_flusher(flow, interval_s=0.001))
    flow.mints_created(payment_id=PAYMENT_ID, quantity=3)
    async with asyncio.timeout(10):
        await stream.written.wait()
    flow.mints_created(payment_id=PAYMENT_ID, quantity=4)
    flusher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flusher
    assert [record["quantity"] for record in records(stream)] == [3, 4]


def test_suppressed_line_allocates_nothing_that_stays() -> None:
    """However many are only counted, what is kept is one count."""
    log, stream = json_log()
    flow = FlowLog(log, lines_per_s_max=0)

    def line() -> None:
        flow.payment_queued(payment_id=PAYMENT_ID, quantity=1, payer=PAYER, amount=AtomicAmount(1), token=TOKEN)

    line()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2_000):
            line()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000
    assert stream.getvalue() == ""
