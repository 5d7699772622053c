"""stub"""


class FidelityExtractor:
    pass
