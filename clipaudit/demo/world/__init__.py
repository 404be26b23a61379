"""The demo world: scenes whose every factor is known, written as shards."""
