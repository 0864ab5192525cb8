"""What `vnotch doctor` finds: `facts` (plain values of a host), `checks` (facts -> findings, pure), `reading` (the host
-> facts; nothing is changed by it)."""
