"""Stage `ingest`: interactions become a data set folder."""
