"""The HTTP/1.1 client that carries messages to their destinations."""
