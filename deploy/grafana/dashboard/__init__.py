"""The Grafana dashboard as code: `python -m deploy.grafana.dashboard` writes deploy/grafana/vinf.json."""
