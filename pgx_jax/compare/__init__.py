"""The rule of comparison: methods at the same total of environment steps.

Import from its modules: `groups.train_groups` trains one policy a group for those who have their own way
to the groups, `results` has the records of ``results.json`` (and needs nothing of JAX to read them);
`budget`, `methods`, `pool`, `judging`, `summaries` and `unseen` are what a run compares with. `adapting` is
the protocol of unseen tasks with steps of adaptation, `finding` how a task finds its policy there.
"""
