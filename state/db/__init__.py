"""The database itself: connection, tables, migrations, locks, and who is connected."""
