"""Other systems' ways in: AbstractCore's capability plugin and its tools."""
