"""The job log in MongoDB: its schema, its writer and its reader."""
