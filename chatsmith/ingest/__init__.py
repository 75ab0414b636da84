"""From what people have to what chatsmith trains on: files of the hub, conversations in other programs' formats."""
