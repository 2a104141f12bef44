"""Jobs sent to a Ray cluster through its Jobs API, and what became of them."""
