"""lbprov.testing"""
