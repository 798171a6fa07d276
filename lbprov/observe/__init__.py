"""lbprov.observe"""
