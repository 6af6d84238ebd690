"""What a run leaves on disk: folders, hashes, weights, measurements. Never imports torch."""
