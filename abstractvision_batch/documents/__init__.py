"""YAML that people write: read with the place of every value, checked by strict models, one sentence for a mistake."""
