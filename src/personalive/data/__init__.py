"""Training data on disk: shards of people, rendered or cut from video, and how they are written and read."""
