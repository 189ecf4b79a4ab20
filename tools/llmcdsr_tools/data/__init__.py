"""Data sets: in memory, in a folder, in figures; stage `ingest` makes them of interactions of any form."""
