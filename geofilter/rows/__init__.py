"""Rows in: data files, their lines, and what each line is made of."""
