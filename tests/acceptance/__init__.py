"""Other people's programs against a Chancery that was started as a newcomer starts it."""
