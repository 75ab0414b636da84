"""What is learned and asked: kindergarten and other tasks as documents, conversations and problems."""
