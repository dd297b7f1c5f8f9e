"""Certificates byte for byte, and the script that makes them anew."""
