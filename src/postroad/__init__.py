"""Postroad: durable, signed HTTP message delivery on Postgres."""

__version__ = "0.1.0"
