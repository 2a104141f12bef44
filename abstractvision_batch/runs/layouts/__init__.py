"""Where a run's bytes lie: a file for each picture, or a container for each shard."""
