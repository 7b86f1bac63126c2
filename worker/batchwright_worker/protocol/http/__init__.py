"""The protocol over HTTP/1.1, by a server of its own around httptools' parser: uvicorn takes twice the CPU per request.

Bytes go up through `request_reader` (`heads`, `chunks`; no I/O) and `connection` (transport, `flow_control`,
`deadlines`) to an application: `routes`, whose infer requests `infer` takes without a task. Between server and
application stand the types of `messages` alone: `HttpRequest`, `HttpResponse`, `RequestHead`, `Caller`, `App`; another
server fits there, as uvicorn does (`asgi`). Never HTTP/2: whatever is in front of the pod does that.
"""
