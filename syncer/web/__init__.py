"""The operator's page: the state of the service, what changed for which customer, and decisions.

The daemon starts a process of its own for it. Pages are rendered on the server and work without
JavaScript; htmx only refreshes the parts that change. Times are shown in UTC.
"""
