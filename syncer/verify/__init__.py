"""The verification: what Amberflo holds, against what it should hold."""
