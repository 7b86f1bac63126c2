"""What stands on Grafana's boards: `python -m e2e.release.boards --write | --check`.

Three boards for three questions: is the cluster well, does a model serve as it should, how far is a job.
"""

from __future__ import annotations

from pathlib import Path

from e2e.release.generated import Generated
from e2e.release.grafana import Board, Panel, written

ROOT = Path(__file__).resolve().parents[2]
MODEL = '{namespace=~"$namespace",modeldeployment=~"$modeldeployment",model=~"$model"}'
POD = '{namespace=~"$namespace",modeldeployment=~"$modeldeployment"}'
BY = "modeldeployment, model"
JOB = 'namespace=~"$namespace",name=~"$name"'


def _rate(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{labels}[$__rate_interval]))"


def _quantile(share: float, metric: str, labels: str, by: str = "") -> str:
    inner = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', labels, inner)})"


CLUSTER = Board(
    name="cluster",
    title="Batchwright / Cluster",
    variables={},
    panels=(
        Panel(
            title="Leads",
            about="Replicas of the operator that lead; 1.",
            unit="short",
            queries={"": "sum(batchwright_leader)"},
            is_number=True,
        ),
        Panel(
            title="ModelDeployments available",
            about="Of those that there are.",
            unit="percentunit",
            queries={"": "avg(batchwright_modeldeployment_available)"},
            is_number=True,
        ),
        Panel(
            title="Pods without a place",
            about="kubectl batchwright why says why.",
            unit="short",
            queries={"": "max(placement_waiting_pods)"},
            is_number=True,
        ),
        Panel(
            title="Utilization by node",
            about="What pods are placed by: the share that lasts.",
            unit="percentunit",
            queries={"{{node}} {{kind}}": 'batchwright_processor_utilization_ratio{device=""}'},
        ),
        Panel(
            title="Memory by node",
            about="Used memory of the processors.",
            unit="percentunit",
            queries={"{{node}} {{kind}}": 'batchwright_processor_memory_utilization_ratio{device=""}'},
        ),
        Panel(
            title="Utilization by device",
            about="As the agents measure it.",
            unit="percentunit",
            queries={"{{node}} {{kind}} {{device}}": 'batchwright_processor_utilization_ratio{device!=""}'},
        ),
        Panel(
            title="Replicas",
            about="Wanted and ready, over all ModelDeployments.",
            unit="short",
            queries={
                "wanted": "sum(batchwright_modeldeployment_replicas_wanted)",
                "ready": "sum(batchwright_modeldeployment_replicas_ready)",
            },
        ),
        Panel(
            title="Time to a place",
            about="From a pod's creation to the decision where it goes.",
            unit="s",
            queries={
                "p50": _quantile(0.5, "batchwright_placement_gate_age_seconds", ""),
                "p99": _quantile(0.99, "batchwright_placement_gate_age_seconds", ""),
            },
        ),
        Panel(
            title="Benchmarks",
            about="Those that ended in the last hour, by how.",
            unit="short",
            queries={"{{kind}} {{outcome}}": "sum by (kind, outcome) (increase(batchwright_benchmarks_total[1h]))"},
        ),
        Panel(
            title="Age of samples",
            about="How long ago each processor was read.",
            unit="s",
            queries={"{{node}} {{kind}}": 'time() - batchwright_processor_sample_timestamp_seconds{device=""}'},
        ),
        Panel(
            title="Passes",
            about="Of the operator's reconcilers, per second.",
            unit="ops",
            queries={"{{domain}} {{result}}": _rate("batchwright_reconcile_total", "", "domain, result")},
        ),
        Panel(
            title="Calls to the API server",
            about="By verb and answer; code 0: there was none.",
            unit="reqps",
            queries={"{{verb}} {{code}}": _rate("batchwright_api_calls_total", "", "verb, code")},
        ),
        Panel(
            title="Silence of the event loop",
            about="How long nothing but one thing ran.",
            unit="s",
            queries={
                "p99": _quantile(0.99, "batchwright_event_loop_silence_seconds", ""),
                "longest": "max(batchwright_event_loop_longest_silence_seconds)",
            },
        ),
        Panel(
            title="Objects in the cache",
            about="What the operator holds in memory.",
            unit="short",
            queries={"{{resource}}": "sum by (resource) (batchwright_cache_objects)"},
        ),
        Panel(
            title="Stalled",
            about="ModelDeployments and InferenceJobs that need somebody.",
            unit="short",
            queries={
                "ModelDeployments": "sum(batchwright_modeldeployment_stalled)",
                "InferenceJobs": 'sum(batchwright_inferencejob_condition{condition="Stalled"})',
            },
        ),
    ),
)

MODELS = Board(
    name="model",
    title="Batchwright / Model",
    variables={
        "namespace": "batchwright_batch_size",
        "modeldeployment": "batchwright_batch_size",
        "model": "batchwright_batch_size",
    },
    panels=(
        Panel(
            title="Requests",
            about="Answered per second.",
            unit="reqps",
            queries={"{{modeldeployment}} {{model}}": _rate("nv_inference_request_success", MODEL, BY)},
        ),
        Panel(
            title="Rows",
            about="Answered per second, and what full batches would serve.",
            unit="ops",
            queries={
                "{{model}}": _rate("nv_inference_count", MODEL, BY),
                "{{model}} possible": f"sum by ({BY}) (batchwright_throughput_possible{MODEL})",
            },
        ),
        Panel(
            title="Latency",
            about="As callers see it, and the target.",
            unit="s",
            queries={
                "{{model}} p50": _quantile(0.5, "batchwright_latency_seconds", MODEL, BY),
                "{{model}} p95": _quantile(0.95, "batchwright_latency_seconds", MODEL, BY),
                "{{model}} p99": _quantile(0.99, "batchwright_latency_seconds", MODEL, BY),
                "{{model}} target": f"max by ({BY}) (batchwright_latency_target_seconds{MODEL})",
            },
        ),
        Panel(
            title="Target met",
            about="Share of the replicas whose last window met the latency target.",
            unit="percentunit",
            queries={"{{modeldeployment}} {{model}}": f"avg by ({BY}) (batchwright_latency_target_met{MODEL})"},
        ),
        Panel(
            title="Batch size",
            about="As tuned, per replica, and what the last window wanted.",
            unit="short",
            queries={
                "{{pod}} {{model}}": f"batchwright_batch_size{MODEL}",
                "{{pod}} {{model}} proposed": f"batchwright_batch_size_proposed{MODEL}",
            },
        ),
        Panel(
            title="Rows per batch",
            about="Mean of the batches that ran.",
            unit="short",
            queries={
                "{{modeldeployment}} {{model}}": f"{_rate('nv_inference_count', MODEL, BY)} / "
                f"{_rate('nv_inference_exec_count', MODEL, BY)}"
            },
        ),
        Panel(
            title="Why the size is what it is",
            about="Windows by the rule that decided, and its reason.",
            unit="ops",
            queries={
                "{{model}} {{rule}} {{reason}}": _rate(
                    "batchwright_batch_size_decisions_total", MODEL, "model, rule, reason"
                )
            },
        ),
        Panel(
            title="Queue",
            about="Rows that wait.",
            unit="short",
            queries={"{{pod}} {{model}}": f"batchwright_queue_length{MODEL}"},
        ),
        Panel(
            title="Where the time goes",
            about="Per answered request: waiting, and in the batch.",
            unit="µs",
            queries={
                f"{{{{model}}}} {what}": f"{_rate(f'nv_inference_{name}_duration_us', MODEL, BY)} / "
                f"{_rate('nv_inference_request_success', MODEL, BY)}"
                for what, name in (("queue", "queue"), ("batch", "compute_infer"))
            },
        ),
        Panel(
            title="Refused and failed",
            about="Requests by Triton's reasons.",
            unit="reqps",
            queries={"{{model}} {{reason}}": _rate("nv_inference_request_failure", MODEL, "model, reason")},
        ),
        Panel(
            title="Device busy",
            about="Share of the last window, per device of a replica.",
            unit="percentunit",
            queries={"{{pod}} {{kind}} {{device}}": f"batchwright_device_busy_ratio{POD}"},
        ),
        Panel(
            title="Device memory",
            about="Of models and batches.",
            unit="bytes",
            queries={"{{pod}} {{kind}} {{device}}": f"batchwright_device_memory_used_bytes{POD}"},
        ),
        Panel(
            title="Loads",
            about="Of models onto devices.",
            unit="ops",
            queries={"{{model}}": _rate("batchwright_model_loads_total", MODEL, BY)},
        ),
        Panel(
            title="Request memory",
            about="Held by requests, and what they may hold.",
            unit="bytes",
            queries={
                "{{pod}}": f"batchwright_request_memory_bytes{POD}",
                "{{pod}} limit": f"batchwright_request_memory_limit_bytes{POD}",
            },
        ),
        Panel(
            title="Hung",
            about="Batches, loads and unloads whose runtime was ended.",
            unit="ops",
            queries={"{{model}}": _rate("batchwright_hung_total", MODEL, BY)},
        ),
    ),
)

JOBS = Board(
    name="job",
    title="Batchwright / Job",
    variables={"namespace": "batchwright_inferencejob_condition", "name": "batchwright_inferencejob_condition"},
    panels=(
        Panel(
            title="Done",
            about="Share of the items that have a result or an error record.",
            unit="percentunit",
            queries={
                "{{name}}": "sum by (namespace, name) "
                f'(batchwright_inferencejob_items{{{JOB},state=~"succeeded|failed"}})'
                f' / sum by (namespace, name) (batchwright_inferencejob_items{{{JOB},state="total"}})'
            },
            is_number=True,
        ),
        Panel(
            title="Items per second",
            about="As measured by the operator.",
            unit="ops",
            queries={"{{name}}": f"batchwright_inferencejob_throughput_items_per_second{{{JOB}}}"},
        ),
        Panel(
            title="Time left",
            about="At that rate.",
            unit="s",
            queries={"{{name}}": f"batchwright_inferencejob_remaining_seconds{{{JOB}}}"},
        ),
        Panel(
            title="Items",
            about="All, with a result, with an error record.",
            unit="short",
            queries={"{{name}} {{state}}": f"batchwright_inferencejob_items{{{JOB}}}"},
        ),
        Panel(
            title="Items by task",
            about="Done and failed.",
            unit="short",
            queries={"{{task}} {{state}}": f"batchwright_inferencejob_task_items{{{JOB}}}"},
        ),
        Panel(
            title="Rows per batch",
            about="Mean, of each model task.",
            unit="short",
            queries={"{{task}}": f"batchwright_inferencejob_task_batch_size_mean{{{JOB}}}"},
        ),
        Panel(
            title="Time of a task",
            about="95 of 100 items took at most this.",
            unit="s",
            queries={"{{task}}": f"batchwright_inferencejob_task_latency_p95_seconds{{{JOB}}}"},
        ),
        Panel(
            title="State",
            about="Conditions that are true.",
            unit="short",
            queries={"{{name}} {{condition}}": f"batchwright_inferencejob_condition{{{JOB}}}"},
        ),
        Panel(
            title="Shards",
            about="Of the plan.",
            unit="short",
            queries={"{{name}}": f"batchwright_inferencejob_shards{{{JOB}}}"},
            is_number=True,
        ),
    ),
)
BOARDS = (CLUSTER, MODELS, JOBS)

GENERATED = Generated(
    what="the boards",
    source="their source",
    folder=ROOT / "manifests" / "monitoring" / "dashboards",
    files=lambda: {f"{board.name}.json": written(board) for board in BOARDS},
)

if __name__ == "__main__":
    GENERATED.command()()
