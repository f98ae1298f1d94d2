"""What is measured besides clean and corrupted images: one file a measure."""
