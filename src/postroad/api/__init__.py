"""Who may ask for what: the HTTP interface."""
