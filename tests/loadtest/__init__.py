"""Tests of the load generator itself: what it claims to measure is what happens."""
