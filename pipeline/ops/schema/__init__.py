"""The interfaces of the service, described for programs: JSON Schema and AsyncAPI."""
