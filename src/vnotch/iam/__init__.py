"""Who may do what: policy evaluation and SigV4."""
