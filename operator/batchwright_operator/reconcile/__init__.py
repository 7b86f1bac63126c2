"""The machinery under every reconciler: informers fill the cache, changes queue keys, the controller runs one pass per
key, the applier performs the pass's actions, the event recorder posts its Events.

It knows no kind of ours and decides nothing about one: that is `Reconciler.decide` of the rooms above. A pass is
level-triggered: it derives everything from the cache, so that lost, repeated and reordered events do no harm.
"""
