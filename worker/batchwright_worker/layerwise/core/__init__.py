"""Method C, pure: the timeline of two engines, the ready list, the rule that picks the next fetch and the next unit.
Never reads a clock."""
