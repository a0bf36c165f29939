"""The classes and tenants of a scenario's requests."""
