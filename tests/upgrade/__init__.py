"""Rolling deploys: the workers of two releases on the same queues, and no job is lost."""
