"""The history: what changed when, proof that it is complete, and how far back it goes."""
