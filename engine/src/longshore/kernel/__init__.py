"""One thin door per kernel interface. No policy."""
