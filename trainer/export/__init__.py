"""Asset -> files: unwrap, bake, write, gallery."""
