"""Runs the jobs that the tables hold."""
