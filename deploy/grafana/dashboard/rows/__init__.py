"""The rows of the dashboard, one a file."""
