"""The cache of fetched weights that the pods of a node share, and `serve` and `run` on one machine.

    entries/KEY/entry.json   what the entry is; its modification time is that of its last use, a lock on it is a use
    entries/KEY/content/     the artifact: it appears with its entry.json by one rename, and is verified at every use
    staging/PREFIX/          what is being fetched, or was broken off; `reserved` says how large it may get
    locks/PREFIX             held by whoever fetches it
    trash/                   what is being removed
    lock                     held for moments, by whoever changes what is there; counters.json is written under it

Locks are those of open files (flock): they end with the process, however it ends.
"""
