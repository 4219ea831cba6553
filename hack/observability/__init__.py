"""A real Prometheus beside a running dispatcher, and troubles that make each alert fire."""
