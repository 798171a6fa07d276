"""lbprov.controller"""
