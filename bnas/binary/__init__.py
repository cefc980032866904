"""How a real tensor becomes +-1: sign, codes, estimators, scales, and the named schemes made of them."""

from bnas.binary.binarizer import Binarizer, BitTerm, Real
from bnas.binary.schemes import SCHEMES, Scheme, make_scheme
from bnas.binary.sign import sign_pm1
from bnas.binary.threshold import Threshold

__all__ = ["SCHEMES", "Binarizer", "BitTerm", "Real", "Scheme", "Threshold", "make_scheme", "sign_pm1"]
