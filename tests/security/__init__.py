"""What must not be possible: a node against its callers, its destinations and the network."""
