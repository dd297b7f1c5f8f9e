"""Certificates, CAs and CRLs byte for byte, and the scripts that make them anew."""
