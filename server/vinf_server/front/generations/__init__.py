"""What clients create: its states, its queue and where it is kept."""
