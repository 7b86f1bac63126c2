"""The Open Inference Protocol in front of the engine, over HTTP (`http`) and gRPC (`grpc`).

A request becomes an `InferRequest` for `Engine.submit`, an `InferResult` or `InferenceError` becomes its response; next
to that there are metadata, statistics and metrics. A request goes one way: `http.infer` -> `json_bodies` ->
`json_tensors` -> `tensors`, or `grpc.server` -> `grpc.messages` -> `tensors`. Never queues, never schedules, never
retries; the engine does not know these modules.
"""
