"""Rules of what is to be told to people, asked of the database; and what became of them. Nothing else raises an alert."""
