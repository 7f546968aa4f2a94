"""Schedules, queues, URL groups and flow-control keys as one file says them: `postroad apply` and `postroad import`."""
