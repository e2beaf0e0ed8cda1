"""The stages: one actor a file, each reading its message, doing one thing, and handing the job to the next."""
