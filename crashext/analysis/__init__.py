"""Judgement: sampling, similarity, decoding. Everything here works on arrays over a `Host`."""
