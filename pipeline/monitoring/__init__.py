"""Reports of the service about itself: logs, traces, metrics over HTTP, health, queue depths and the job log."""
