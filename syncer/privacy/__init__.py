"""Erasure: a customer is anonymized at Amberflo and deleted here."""
