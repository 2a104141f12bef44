"""Prompts × matrix × samples → a plan: one Parquet row per request, one row group per shard."""
