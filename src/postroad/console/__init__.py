"""The console: what happens, and what can be done about it, in a browser."""
