"""S3 objects: published renditions, and staging between the stages."""
