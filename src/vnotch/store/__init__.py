"""What the server keeps: the control plane in SQL, log events in DuckLake."""
