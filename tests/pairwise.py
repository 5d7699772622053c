"""A selection of test cases."""

import itertools


def pairwise_cover(cases: list[tuple]) -> list[tuple]:
    """Return a subset of `cases` with every pair of values of two axes that occurs in `cases`.

    Greedy: the next case is the one with the most pairs that are still missing.
    """
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in cases}
    missing = set().union(*pairs.values())
    cover = []
    while missing:
        cover.append(max(cases, key=lambda case: len(pairs[case] & missing)))
        missing -= pairs[cover[-1]]
    return cover
