"""The cost of a network, computed from its layer graph: no tensor is made, nothing is measured."""
