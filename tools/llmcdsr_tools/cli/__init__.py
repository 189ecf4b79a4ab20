"""The commands of the training side, thin skins over its stages."""
