"""Generated from protos/ by scripts/generate_stubs.sh; never edited."""
