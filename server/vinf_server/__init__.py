"""The service: a front that never imports torch, and the ranks it launches."""
