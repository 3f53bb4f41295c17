"""The operator's page: what goes on, what changed for whom, and the decisions that need a person.

Served by the daemon beside the receiver, in a process of its own. Pages are made here and work
without JavaScript; htmx only keeps what moves up to date. Times are shown in UTC.
"""
