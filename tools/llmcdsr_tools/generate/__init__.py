"""Stage `generate`: a language model writes names of items of a domain that a user lacks."""
