"""Runs to one run, a submission and a report."""
