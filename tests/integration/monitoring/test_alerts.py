"""The alerts that ship, judged by promtool: each fires on what it is for, and is silent while all is well."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from payfirst.cli.metrics import shipped
from payfirst.ops import metrics

from .conftest import Prometheus

QUIET = Path(__file__).with_name("alerts_test.yml")
SIGNER = 'network="n", purpose="mint", signer="0x1"'

# What goes wrong, as series at 15 s intervals; when to look, and the labels with which the alert stands then.
FIRES: dict[str, tuple[dict[str, str], str, dict[str, str]]] = {
    "PayfirstExporterDown": ({'up{job="payfirst", instance="a"}': "0x100"}, "5m", {"job": "payfirst", "instance": "a"}),
    "PayfirstDatabaseAway": ({"payfirst_up": "1x4 0x100"}, "5m", {}),
    "PayfirstNoApi": ({'payfirst_processes{role="api"}': "0x100"}, "5m", {}),
    "PayfirstNoWorker": ({'payfirst_processes{role="worker"}': "0x100"}, "5m", {}),
    "PayfirstChainNotSeen": ({'payfirst_chain_head_age_seconds{network="n"}': "0+15x100"}, "10m", {"network": "n"}),
    "PayfirstChainReadLate": (
        {
            'payfirst_chain_confirmable_height{network="n"}': "1000+8x100",
            'payfirst_chain_cursor_height{network="n"}': "700+8x100",
        },
        "10m",
        {"network": "n"},
    ),
    "PayfirstStuckInSent": ({'payfirst_queue_stuck{queue="payment"}': "3x100"}, "5m", {"queue": "payment"}),
    "PayfirstPendingTooLong": (
        {'payfirst_queue_oldest_age_seconds{queue="mint", status="pending"}': "0+15x100"},
        "15m",
        {"queue": "mint"},
    ),
    "PayfirstSlow": (
        {
            'payfirst_stage_duration_seconds_sum{stage="accepted_to_completed"}': "0+600x100",
            'payfirst_stage_duration_seconds_count{stage="accepted_to_completed"}': "0+30x100",
        },
        "15m",
        {},
    ),
    "PayfirstSignerPaused": (
        {f"payfirst_signer_paused{{{SIGNER}}}": "1x100"},
        "5m",
        {"network": "n", "purpose": "mint", "signer": "0x1"},
    ),
    "PayfirstSignerLowOnGas": (
        {
            f"payfirst_signer_balance_wei{{{SIGNER}}}": "1e15x200",
            "payfirst_gas_paid_wei_total": "0+1e12x200",
            'payfirst_transactions_mined_total{outcome="succeeded"}': "0+1x200",
        },
        "40m",
        {"network": "n", "purpose": "mint", "signer": "0x1"},
    ),
    "PayfirstNonceStuck": (
        {f"payfirst_signer_oldest_unresolved_seconds{{{SIGNER}}}": "0+15x100"},
        "10m",
        {"network": "n", "purpose": "mint", "signer": "0x1"},
    ),
    "PayfirstOwed": (
        {'payfirst_owed{direction="to_buyer", reason="no_supply", asset="0x3"}': "0x4 2x100"},
        "5m",
        {"direction": "to_buyer"},
    ),
    "PayfirstTreasuryShort": (
        {'payfirst_treasury_short{network="n", asset="0x3", treasury="0x4"}': "0x4 1x100"},
        "5m",
        {"network": "n", "asset": "0x3", "treasury": "0x4"},
    ),
    "PayfirstReorg": ({'payfirst_reorged_rows_total{kind="payment"}': "0x4 5x100"}, "5m", {}),
    "PayfirstTransactionsRevert": (
        {'payfirst_transactions_mined_total{outcome="reverted"}': "0+1x100"},
        "5m",
        {},
    ),
    "PayfirstRpcFailing": (
        {
            'payfirst_rpc_errors_total{endpoint="1", rpc_host="h", kind="failing"}': "0+5x100",
            'payfirst_rpc_request_duration_seconds_count{endpoint="1", rpc_host="h"}': "0+10x100",
        },
        "15m",
        {"endpoint": "1", "rpc_host": "h"},
    ),
    "PayfirstRpcDisagree": (
        {'payfirst_rpc_disagreements_total{subject="payment"}': "0+2x100"},
        "10m",
        {"subject": "payment"},
    ),
    "PayfirstServerErrors": (
        {
            'payfirst_http_requests_total{status="202"}': "0+5x100",
            'payfirst_http_requests_total{status="503"}': "0+5x100",
        },
        "15m",
        {},
    ),
    "PayfirstAcceptSlow": (
        {
            'payfirst_accept_duration_seconds_bucket{le="0.5"}': "0+5x100",
            'payfirst_accept_duration_seconds_bucket{le="1.0"}': "0+9x100",
            'payfirst_accept_duration_seconds_bucket{le="+Inf"}': "0+9x100",
        },
        "15m",
        {},
    ),
    "PayfirstEventLoopStalls": (
        {
            'payfirst_event_loop_lag_seconds_bucket{role="api", host="h", pid="1", le="0.25"}': "0+990x100",
            'payfirst_event_loop_lag_seconds_bucket{role="api", host="h", pid="1", le="1.0"}': "0+1000x100",
            'payfirst_event_loop_lag_seconds_bucket{role="api", host="h", pid="1", le="+Inf"}': "0+1000x100",
        },
        "15m",
        {"role": "api", "host": "h", "pid": "1"},
    ),
    "PayfirstTasksFail": (
        {'payfirst_task_failures_total{role="worker", host="h", pid="1"}': "0+1x100"},
        "5m",
        {"role": "worker", "host": "h"},
    ),
    "PayfirstTokenNearlySoldOut": (
        {'payfirst_token_units_left{network="n", token="0x2", symbol="T"}': "500-10x100"},
        "15m",
        {"network": "n", "token": "0x2", "symbol": "T"},
    ),
}  # fmt: skip


def names(text: str) -> list[str]:
    """The alerts of a rules file, in its order."""
    return re.findall(r"^ +- alert: (\w+)$", text, re.MULTILINE)


def judge(prometheus: Prometheus, folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """`promtool test rules`, beside the rules that ship."""
    (folder / "alerts.yml").write_text(shipped("alerts"), encoding="utf-8")
    (folder / "tests.yml").write_text(tests, encoding="utf-8")
    return subprocess.run(
        [prometheus.promtool, "test", "rules", "tests.yml"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_while_all_is_well_nothing_fires(prometheus: Prometheus, tmp_path: Path) -> None:
    """Ordinary figures of a busy shop, some rate limits and a few 503 among them."""
    tests = QUIET.read_text(encoding="utf-8")
    judged = judge(prometheus, tmp_path, tests)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert re.findall(r"alertname: (\w+)", tests) == names(shipped("alerts"))


def _firing(alert: str) -> str:
    """As promtool takes it; what people read is not judged, so that words can change."""
    series, at, labels = FIRES[alert]
    rule = re.search(rf"- alert: {alert}\n(.*?)(?=\n\n|\Z)", shipped("alerts"), re.DOTALL)
    assert rule is not None
    severity = re.search(r"severity: (\w+)", rule.group(1))
    assert severity is not None
    expected = json.dumps({"alertname": alert, "alertstate": "firing", "severity": severity.group(1), **labels})
    shown = ", ".join(f"{name}={json.dumps(text)}" for name, text in json.loads(expected).items())
    return json.dumps(
        {
            "rule_files": ["alerts.yml"],
            "evaluation_interval": "15s",
            "tests": [
                {
                    "interval": "15s",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f'ALERTS{{alertname="{alert}", alertstate="firing"}}',
                            "eval_time": at,
                            "exp_samples": [{"labels": f"ALERTS{{{shown}}}", "value": 1}],
                        }
                    ],
                }
            ],
        }
    )


@pytest.mark.parametrize("alert", FIRES)
def test_each_fires_on_what_it_is_for(prometheus: Prometheus, tmp_path: Path, alert: str) -> None:
    """With the labels by which it is routed."""
    judged = judge(prometheus, tmp_path, _firing(alert))
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_every_alert_is_tested() -> None:
    """None ships that nobody has seen fire."""
    assert list(FIRES) == names(shipped("alerts"))


def test_what_alerts_and_dashboard_ask_for_is_measured() -> None:
    """Every name in them is one that the exporter shows (the series themselves are asked for by a slow test)."""
    source = Path(metrics.__file__).with_name("exposition.py").read_text(encoding="utf-8")
    shown = {*metrics.COUNTERS, *metrics.HISTOGRAMS, *re.findall(r'"(payfirst_[a-z_]+)"', source)}
    for prefix in ("payfirst_signer_", "payfirst_chain_"):
        for block in re.findall(
            rf'for name, meaning, value in \((.*?)\):\n +families.gauge\(f"{prefix}', source, re.DOTALL
        ):
            shown |= {prefix + name for name in re.findall(r'\("([a-z_]+)", "', block)}
    for name in ("alerts", "dashboard"):
        for asked in re.findall(r"\bpayfirst_[a-z_]+", shipped(name)):
            assert re.sub(r"_(bucket|sum|count)$", "", asked) in shown or asked in shown, asked
