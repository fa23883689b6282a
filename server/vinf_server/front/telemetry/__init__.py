"""OpenTelemetry: spans to a collector, imported only where it is switched on."""
