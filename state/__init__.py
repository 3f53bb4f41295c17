"""What the service remembers: the snapshot, the history, the runs and what is still to deliver.

This package knows SQL and nothing of Segment or Amberflo; it imports nothing of `syncer`
(tests/unit/test_imports.py holds that).
"""
