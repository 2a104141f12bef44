"""Where a run lives: named objects under one folder or URL, written whole or not at all."""
