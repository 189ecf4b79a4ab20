"""What pre-training and training share: batches, losses with their gradients, optimisers."""
