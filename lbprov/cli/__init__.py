"""lbprov.cli"""
