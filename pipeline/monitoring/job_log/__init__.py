"""Schema, writer and reader of the job log in MongoDB."""
