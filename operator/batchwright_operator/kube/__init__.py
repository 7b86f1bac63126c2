"""Kubernetes as any client sees it: objects, quantities, selectors, the API client and its errors. Knows none of our
rules."""
