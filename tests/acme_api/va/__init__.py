"""Validation against hostile servers: each one is a real server on a loopback address."""
