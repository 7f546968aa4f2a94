"""What moves messages: claim, deliver, settle."""
