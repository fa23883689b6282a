"""What happened when, for one generation: the ranks' spans on disk, its readers in memory."""
