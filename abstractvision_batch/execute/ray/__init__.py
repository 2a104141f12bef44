"""Shards on a Ray cluster: an actor pool that loses no row, its placement, and the way into a cluster."""
