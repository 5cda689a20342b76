"""Set-to-set distances of generated and real shapes."""
