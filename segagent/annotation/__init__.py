"""Annotation as a product: pictures and texts, or masks to refine or to check -> masks, COCO files, pages; and from
Python: `annotate(image, text)`.
"""

from segagent.annotation.api import Annotator, annotate
from segagent.annotation.choice import returned, returned_mask, scores

__all__ = ["Annotator", "annotate", "returned", "returned_mask", "scores"]
