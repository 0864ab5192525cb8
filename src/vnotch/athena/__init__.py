"""Flow logs in a bucket as a table of Athena: its definition, queries to begin with, the template that makes both."""
