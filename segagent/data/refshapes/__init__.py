"""`refshapes`: a referring-segmentation benchmark that is drawn, not downloaded.

randomness -> outline -> solid, thin -> raster, textures -> vocabulary -> scene -> compose (pictures)
grammar -> meaning -> language (texts, each proved to single out its target) -> dataset -> hashes (what pins it all)
"""

from segagent.data.refshapes.dataset import RefShapes
from segagent.data.refshapes.grammar import description_words

__all__ = ["RefShapes", "description_words"]
