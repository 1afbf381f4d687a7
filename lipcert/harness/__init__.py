"""Runs attacks against certificates, keeps the rows and gives the verdict."""
