"""How a bundle is made, one module a stage: ingest, train, evaluate, export."""
