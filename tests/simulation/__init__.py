"""Histories of the queue layer: real decisions on an in-memory SQS and a virtual clock, one seed for each history."""
