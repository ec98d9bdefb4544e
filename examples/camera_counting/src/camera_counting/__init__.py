"""Counts people in the frames of fixed cameras."""
