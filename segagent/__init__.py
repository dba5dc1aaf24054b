"""Segment like an annotator."""
