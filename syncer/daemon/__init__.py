"""The daemon: a process that receives calls and schedules, one beside it that works the calls off
and delivers, and one for each run while it goes on."""
