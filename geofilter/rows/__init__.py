"""Rows in: data files, their lines, and what each line is made of. Imports nothing but the ground."""
