"""The inference engine: asyncio around the pure `scheduler`. Answers every caller once. Imports no protocol and no
socket."""
