"""From what Engage says to what Amberflo should hold: compare, guard, commit, deliver."""
