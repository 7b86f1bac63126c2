"""The servers that are measured beside Batchwright, written as their users would write them."""
