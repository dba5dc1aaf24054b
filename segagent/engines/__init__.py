"""Who makes the rollouts (`configs/engine/`): this process, or workers on the nodes of a Ray cluster. One contract,
`work.RolloutEngine`: plain settings in, a trajectory file out, the same bytes whoever does it."""
