"""The delivery: what is due in the state goes to Amberflo."""
