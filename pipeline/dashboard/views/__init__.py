"""The contents of the pages, ready for the templates: stages, jobs, causes of failures and sweeps."""
