"""CloudWatch Logs Insights: the query language, compiled to one SQL statement, and the queries that run."""
