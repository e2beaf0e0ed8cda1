"""Objects in S3 and bytes in staging."""
