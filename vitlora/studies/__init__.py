"""Compares several training methods on the same pictures."""
