"""What each database role may not do, tried."""
