"""Rows that are alike: groups of a cut's rows, and the rows most like one of them or like a text."""
