"""The calls of Triton's trace and log settings over gRPC."""

from __future__ import annotations

from typing import Any

from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.triton_settings import check_log, check_trace, log_settings, trace_settings


async def trace_setting(request: Any, catalogue: Catalogue) -> Any:
    """The response to a TraceSettingRequest. Raises InferenceError."""
    if request.model_name:
        catalogue.check(request.model_name)
    check_trace({name: list(each.value) for name, each in request.settings.items()})
    response = pb.TraceSettingResponse()
    for name, values in trace_settings().items():
        response.settings[name].value.extend(values)
    return response


async def log_setting(request: Any) -> Any:
    """The response to a LogSettingsRequest. Raises InferenceError."""
    check_log({name: _value(each) for name, each in request.settings.items()})
    response = pb.LogSettingsResponse()
    for name, value in log_settings().items():
        given = response.settings[name]
        match value:
            case bool():
                given.bool_param = value
            case int():
                given.uint32_param = value
            case str():
                given.string_param = value
    return response


def _value(setting: Any) -> object:
    chosen = setting.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(setting, chosen)
