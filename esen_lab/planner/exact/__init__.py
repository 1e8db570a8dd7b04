"""The default searcher: the best plan of lanes, with a proof that none is better."""
