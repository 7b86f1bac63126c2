"""The inference engine: asyncio around the pure `scheduler`. Answers every caller once. Knows no protocol and no
socket."""
