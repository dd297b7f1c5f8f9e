"""One module a noun: the click commands of `chancery`."""
