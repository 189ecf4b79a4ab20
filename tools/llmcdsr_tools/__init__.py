"""How a bundle is made, a module or a folder a stage.

``ingest``, ``neighbours`` or ``generate``, ``embed``, ``embed_names``, ``pretrain``, ``train``, ``evaluate``,
``export``, ``index``; ``fit`` is all of them. What the stages share stands beside them.
"""
