"""`chancery run perspective`: a remote perspective's process. It has no database; `__main__` wires it."""
