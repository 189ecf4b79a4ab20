"""The whole pipeline, `fit`: from interactions to a bundle and a report, as one configuration says."""
