"""What things are and mean: plain values and pure functions."""
