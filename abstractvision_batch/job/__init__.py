"""The YAML job spec: its model, its loading and its checking."""
