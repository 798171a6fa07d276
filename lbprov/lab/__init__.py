"""lbprov.lab"""
