"""Pure functions on arrays, no state."""
