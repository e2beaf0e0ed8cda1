"""The queue layer: dramatiq-sqs, made safe and cheap. It does not depend on the rest of the product."""
