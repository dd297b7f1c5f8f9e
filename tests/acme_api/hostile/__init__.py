"""Every row of the list E, hostile inputs, against a real server, and what holds after each of them."""
