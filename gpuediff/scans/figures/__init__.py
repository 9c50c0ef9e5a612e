"""Pictures of a mapped scan; drawing only."""
