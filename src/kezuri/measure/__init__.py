"""What a model is worth and what it costs, as measurements that carry their conditions."""
