"""Variants × points × prompts × samples → a plan: one Parquet row per request, one row group per shard."""
