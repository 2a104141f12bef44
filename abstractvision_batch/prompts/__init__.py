"""Rows of a prompt dataset, from files anywhere to checked `Prompt`s: sources, readers, templates, input images."""
