"""What Engage says: the ways to pull it, and how its keys and values are read."""
