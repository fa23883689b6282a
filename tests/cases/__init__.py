"""The numbered fault and bad-input cases of docs/reliability.md, on real ranks that serve sprites."""
