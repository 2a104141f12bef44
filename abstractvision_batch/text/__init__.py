"""Text that people see: what must not be shown in it."""
