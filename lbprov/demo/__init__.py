"""lbprov.demo"""
