"""Dataset -> model -> assets."""
