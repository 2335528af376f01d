"""What a network costs, computed from its layer graph: no tensor is made, nothing is measured."""
