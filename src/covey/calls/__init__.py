"""Calls: what a method takes and gives, seen from outside the process."""
