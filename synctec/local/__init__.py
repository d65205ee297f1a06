"""The embedded stack: a real PostgreSQL, real Valkey nodes and SyncTec's own processes, for one machine.

For development, demonstrations, tests and chaos runs. Production starts the same programs under its own
process manager and never uses this package.
"""
