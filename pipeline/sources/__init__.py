"""Where assets come from, one file a source."""
