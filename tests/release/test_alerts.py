"""Every alert fires on what it is about, and nothing else fires; in promtool's own evaluation."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.debian import program

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "manifests" / "monitoring" / "rules.yaml").read_text())["spec"]
MODEL = 'namespace="a",modeldeployment="d",model="m"'
LEADS = {'batchwright_leader{pod="o"}': "1x60"}
SERVES = {f'nv_inference_request_success{{{MODEL},pod="p"}}': "0+600x60"}

FIRES: dict[str, dict[str, str]] = {
    "BatchwrightOperatorDown": {'batchwright_leader{pod="o"}': "0x60"},
    "BatchwrightOperatorStarved": {
        'batchwright_event_loop_silence_seconds_bucket{pod="o",le="1"}': "0+5x60",
        'batchwright_event_loop_silence_seconds_bucket{pod="o",le="2.5"}': "0+10x60",
        'batchwright_event_loop_silence_seconds_bucket{pod="o",le="+Inf"}': "0+10x60",
    },
    "BatchwrightApiErrors": {
        'batchwright_api_calls_total{pod="o",verb="get",code="200"}': "0+90x60",
        'batchwright_api_calls_total{pod="o",verb="get",code="503"}': "0+10x60",
    },
    "BatchwrightReconcileErrors": {'batchwright_reconcile_total{domain="x",result="error"}': "0+60x60"},
    "BatchwrightPodsWaiting": {'placement_waiting_pods{pod="o"}': "2x60"},
    "BatchwrightBenchmarksFail": {'batchwright_benchmarks_total{kind="cpu",outcome="BenchmarkNotStarted"}': "0+1x60"},
    "BatchwrightSamplesStale": {'batchwright_processor_sample_timestamp_seconds{node="n",kind="cpu"}': "60x60"},
    "BatchwrightModelDeploymentUnavailable": {
        'batchwright_modeldeployment_available{namespace="a",name="d"}': "0x60",
        'batchwright_modeldeployment_replicas_wanted{namespace="a",name="d"}': "2x60",
    },
    "BatchwrightModelDeploymentStalled": {'batchwright_modeldeployment_stalled{namespace="a",name="d"}': "1x60"},
    "BatchwrightLatencyTargetMissed": {f'batchwright_latency_target_met{{{MODEL},pod="p"}}': "0x60"},
    "BatchwrightRequestsRefused": SERVES
    | {f'nv_inference_request_failure{{{MODEL},pod="p",reason="REJECTED"}}': "0+60x60"},
    "BatchwrightRequestsFail": SERVES
    | {f'nv_inference_request_failure{{{MODEL},pod="p",reason="BACKEND"}}': "0+30x60"},
    "BatchwrightModelHangs": {f'batchwright_hung_total{{{MODEL},pod="p"}}': "0x25 1x34"},
    "BatchwrightRequestMemoryFull": {
        'batchwright_request_memory_bytes{namespace="a",pod="p"}': "95x60",
        'batchwright_request_memory_limit_bytes{namespace="a",pod="p"}': "100x60",
    },
    "BatchwrightJobFailed": {'batchwright_inferencejob_condition{namespace="a",name="j",condition="Failed"}': "1x60"},
    "BatchwrightJobStalled": {'batchwright_inferencejob_condition{namespace="a",name="j",condition="Stalled"}': "1x60"},
    "BatchwrightJobItemsFail": {
        'batchwright_inferencejob_items{namespace="a",name="j",state="failed"}': "20x60",
        'batchwright_inferencejob_items{namespace="a",name="j",state="total"}': "100x60",
    },
}
"""What each alert is about, beside an operator that leads."""
WELL = (
    LEADS
    | SERVES
    | {
        'placement_waiting_pods{pod="o"}': "0x60",
        'batchwright_modeldeployment_available{namespace="a",name="d"}': "1x60",
        'batchwright_modeldeployment_replicas_wanted{namespace="a",name="d"}': "2x60",
        'batchwright_modeldeployment_available{namespace="a",name="at-0"}': "0x60",
        'batchwright_modeldeployment_replicas_wanted{namespace="a",name="at-0"}': "0x60",
        'batchwright_modeldeployment_stalled{namespace="a",name="d"}': "0x60",
        f'batchwright_latency_target_met{{{MODEL},pod="p"}}': "0x60",
        f'batchwright_latency_target_met{{{MODEL},pod="q"}}': "1x60",
        f'nv_inference_request_failure{{{MODEL},pod="p",reason="REJECTED"}}': "0+3x60",
        'batchwright_inferencejob_condition{namespace="a",name="j",condition="Failed"}': "0x60",
        'batchwright_benchmarks_total{kind="cpu",outcome="Benchmarked"}': "0+1x60",
        'batchwright_processor_sample_timestamp_seconds{node="n",kind="cpu"}': "0+60x60",
    }
)


def alerts() -> list[str]:
    return [rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


def case(series: dict[str, str], *firing: str) -> dict[str, Any]:
    """After half an hour of these series exactly these alerts fire."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "30m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing],
            }
        ],
    }


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("prometheus", "promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_alert_has_a_case() -> None:
    assert sorted(FIRES) == sorted(alerts())


@pytest.mark.slow
def test_the_rules_are_rules_and_each_alert_fires_alone(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    checked = promtool("check", "rules", str(tmp_path / "rules.yaml"))
    assert checked.returncode == 0, checked.stderr
    cases = [case(WELL), *(case(LEADS | series, name) for name, series in FIRES.items())]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": cases}, width=999))
    done = promtool("test", "rules", str(tmp_path / "test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
