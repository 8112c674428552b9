"""What each layer of a network can bear: by what its answers lose, and by the curvature of the loss."""
