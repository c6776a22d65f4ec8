"""The report's sections; each is made from the same material by one function."""
