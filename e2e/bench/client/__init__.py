"""The load: connections, requests on a schedule, a generator process of its own. Knows no server's product."""
