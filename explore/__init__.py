"""Design-space exploration."""
