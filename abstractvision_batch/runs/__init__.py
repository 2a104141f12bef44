"""A run as it lies on storage: columns, record, plan files, manifest parts, layouts, weights, environments, listing."""
