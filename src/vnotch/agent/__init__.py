"""The agent: captures, closes windows, spools and delivers, on every host that has interfaces of the VPC.

Reading order: `durable`, `journal`, `progress`, `tracks`, `trials`, `interfaces`, `spooling` (what is kept and made),
`datapath`, `intake`, `succession` (what comes from the kernel), `loop` (the steps and why a crash loses and repeats
nothing), `configuration` (what is told to and by the server), `status`, `view`, `asking`, `view_socket` (what people
see of it), `agent` (threads and the wait for the next tick), `process` (lock, datapath, signals). It opens no database.

Nothing is imported here: who asks an agent (`asking`) needs none of it.
"""
