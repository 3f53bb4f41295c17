"""The daemon: a process that receives calls and schedules runs, and its child processes.

The worker processes calls and delivers; each run, the page and each of its tasks is a child, too.
"""
