"""What every process of the service needs: its start, its HTTP server, its child processes."""
