"""What differs between the warehouses that Segment's Profiles Sync writes to: a file for each."""
