"""Where data lies: folders, object stores, the plan. Knows no format."""
