"""Model cards: what each model takes, its licence and what runs it; the cards are `registry/` next to the package."""
