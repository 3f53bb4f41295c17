"""The state as a whole: backup, restore, copy to another database, check."""
