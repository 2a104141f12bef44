"""Work off a plan: shards on workers, artifacts first, one manifest part per shard last."""
