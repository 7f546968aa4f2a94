"""The supply chain: what is locked, what is known of it, and what is shipped."""
