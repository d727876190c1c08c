"""A verdict said in the formats that people and CI systems read: pure functions from the document to text."""
