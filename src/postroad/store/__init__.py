"""What is remembered: every SQL statement lives here."""
