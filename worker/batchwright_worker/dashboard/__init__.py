"""The dashboard: a page on this machine that shows what a cluster, or one process, is doing, live.

Whoever knows something makes an `Overview` of it (pure: the plugin from objects of the API server, `local` from the
state of its processes); this room keeps its history, and serves the page that draws both.
"""
