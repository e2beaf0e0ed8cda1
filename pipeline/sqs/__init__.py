"""The queue layer on dramatiq-sqs. It knows no settings, jobs or stages."""
