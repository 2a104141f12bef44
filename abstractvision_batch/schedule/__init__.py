"""When runs are due, and what became of each: cron expressions, distinct outputs, the state of a schedule."""
