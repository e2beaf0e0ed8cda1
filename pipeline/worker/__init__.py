"""The dramatiq worker: the broker, stage actors, settlement of failures, middleware, ingest and periodic tasks."""
