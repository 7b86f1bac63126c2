"""OpenTelemetry, where its standard variables name an endpoint; without one nothing of it is imported."""
