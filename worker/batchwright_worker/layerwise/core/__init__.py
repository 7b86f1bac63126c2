"""Method C, pure: the timeline of two engines, the ready list, the rule that picks the layer to fetch next.

Plans, executors and simulations run this very code. Never reads a clock: the time is an argument.
"""
