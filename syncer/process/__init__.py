"""What every process of the service needs: its start, its server, its child processes."""
