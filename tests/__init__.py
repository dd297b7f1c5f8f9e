"""Mirrors the tree; `fixtures_*.py` start the real servers that tests need, on loopback and in temporary folders."""
