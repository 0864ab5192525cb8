"""A VPC on this host: namespaces, instances, routers, traffic."""
