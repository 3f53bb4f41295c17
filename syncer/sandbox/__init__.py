"""Stand-ins for Engage and Amberflo on loopback: the demo's stage and the tests' counterpart."""
