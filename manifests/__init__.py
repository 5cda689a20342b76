"""What an asset, a view, a shard and a dataset are on disk."""
