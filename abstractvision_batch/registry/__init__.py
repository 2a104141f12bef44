"""Model cards: what each model takes, its licence and what runs it; as YAML beside the code that reads them."""
